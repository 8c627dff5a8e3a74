"""The same on processes that Dask starts, and that may be killed."""

import logging
import os
import signal
import threading
import time

import distributed
import numpy as np
import pytest
from blockwise_cases import QUIET, make_cells, write_volume

from malis.scale import BlockError, segment_affinities
from malis.scale.cluster import run_step
from malis.scale.output import Output
from malis.scale.volumes import open_volume

OPTIONS = {"threshold": 0.5, "block": (8, 20, 24), "halo": 8, "progress": False}


@pytest.fixture
def source(tmp_path):
    affinities, _ = make_cells((24, 40, 48), 12)
    return write_volume(tmp_path / "affinities.zarr", affinities, (8, 8, 8))


@pytest.fixture(scope="module")
def cluster():
    """Two workers, waiting at a port of this machine."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


def test_a_killed_worker_changes_nothing(tmp_path, source, cluster):
    segment_affinities(source, tmp_path / "expected.zarr", **{**QUIET, **OPTIONS})
    with distributed.Client(cluster) as client:
        before = client.run(os.getpid)
        victim = min(before.values())
        killed = []

        def kill():
            output = Output(tmp_path / "out.zarr", (24, 40, 48), OPTIONS["block"])
            while not (done := output.n_blocks - len(output.pending("fragments"))):
                time.sleep(0.001)
            os.kill(victim, signal.SIGKILL)
            killed.append(done)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        segment_affinities(
            source, tmp_path / "out.zarr", scheduler=cluster.scheduler_address, **OPTIONS
        )
        killer.join()
        assert 1 <= killed[0] < 12  # in the middle
        client.wait_for_workers(2)
        assert victim not in client.run(os.getpid).values()
    for name in ("fragments", "segmentation"):
        result, expected = (open_volume(tmp_path / f"{x}.zarr", name) for x in ("out", "expected"))
        np.testing.assert_array_equal(result[...], expected[...])


def test_workers_that_die_again_and_again_stop_the_run_with_a_clear_error(tmp_path, cluster):
    output = Output(tmp_path, (2, 2, 2), (2, 2, 2))

    def die(_block):
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        distributed.Client(cluster) as client,
        pytest.raises(BlockError, match=r"lack of memory.*0 of 1 blocks are done") as error,
    ):
        run_step(output, "fragments", die, client, progress=False)
    assert "\n" not in str(error.value)


def test_an_error_on_a_worker_arrives_as_one_line(tmp_path, source):
    """On a cluster of its own, whose memory limit is stated and kept."""
    chunk = sorted(p for p in (tmp_path / "affinities.zarr/0/c").rglob("*") if p.is_file())[-1]
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:100])
    options = {**OPTIONS, "workers": 1, "memory_per_worker": "1GB"}
    with pytest.raises(BlockError, match=r"affinities.zarr/0 is damaged") as error:
        segment_affinities(source, tmp_path / "out.zarr", **options)
    assert "\n" not in str(error.value)
    chunk.write_bytes(whole)
    report = segment_affinities(source, tmp_path / "out.zarr", **options)
    assert report["memory_limit"] == 10**9


def test_no_scheduler_there(tmp_path, source):
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        segment_affinities(source, tmp_path / "out.zarr", scheduler="tcp://127.0.0.1:9", **OPTIONS)
