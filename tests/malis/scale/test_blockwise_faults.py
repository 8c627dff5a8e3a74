"""What goes wrong with large volumes: interruptions, full disks, damaged files, bad input."""

import errno
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from as_on_windows import keep_open_files
from blockwise_cases import QUIET, make_cells, write_model, write_volume

from malis import nearest_offsets
from malis.scale import BlockError, predict_volume, run, segment_affinities, segment_volume
from malis.scale.output import Output
from malis.scale.run import VERSION
from malis.scale.stages import fragment_block
from malis.scale.volumes import open_volume

BLOCK = (12, 20, 24)
OPTIONS = {"threshold": 0.5, "block": BLOCK, "halo": 8, **QUIET}


@pytest.fixture(scope="module")
def affinities():
    return make_cells((24, 40, 48), 12)[0]


@pytest.fixture
def source(tmp_path, affinities):
    return write_volume(tmp_path / "affinities.zarr", affinities, (8, 8, 8))


@pytest.fixture
def expected(tmp_path, source):
    segment_affinities(source, tmp_path / "expected.zarr", **OPTIONS)
    return open_volume(tmp_path / "expected.zarr")[...]


def fail_at(monkeypatch, n, error, name="fragments"):
    """Let the n-th block that is written to an array fail."""
    write, calls = Output.write, []

    def failing(self, to, *arguments):
        calls.append(to)
        if calls.count(name) == n and to == name:
            raise error
        write(self, to, *arguments)

    monkeypatch.setattr(Output, "write", failing)
    return calls


def shards(path, name):
    return sorted(p for p in (path / name / "0" / "c").rglob("*") if p.is_file())


# ---- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fragments", "segmentation"])
def test_a_full_disk_stops_clearly_and_the_same_call_goes_on(
    tmp_path, monkeypatch, source, expected, name
):
    keep_open_files(monkeypatch)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        fail_at(patch, 4, full, name)
        message = rf"{name} of block \[0:12, 20:40, 24:48\].*No space left.*3 of 8 blocks are done"
        with pytest.raises(BlockError, match=message):
            segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    calls = fail_at(monkeypatch, -1, full)
    segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    assert calls.count(name) == 5  # those of the first call are not computed again
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr")[...], expected)


def test_files_that_were_being_written_are_swept_away(tmp_path, monkeypatch, source, expected):
    with monkeypatch.context() as patch:
        fail_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    half = tmp_path / "out.zarr/fragments/0/c/0/1/1.0123456789abcdef.partial"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half a shard")
    segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    assert not half.exists()
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr")[...], expected)


def test_a_run_that_was_killed_is_continued(tmp_path, source, expected):
    """SIGKILL to the whole process, as by a power cut or a queue's time limit."""
    program = (
        "from malis.scale import segment_affinities; from malis.scale.volumes import open_volume;"
        f"segment_affinities(open_volume({source.path!r}), {str(tmp_path / 'out.zarr')!r},"
        f"**{OPTIONS!r})"
    )
    run = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    output = Output(tmp_path / "out.zarr", (24, 40, 48), BLOCK)
    while len(output.pending("fragments")) > 6 and run.poll() is None:
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in shards(output.path, "fragments")}
    assert len(done) >= 2
    segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr")[...], expected)


def interrupt_before(step, call, *arguments, **options):
    """Let a call end before a step, as if its process was killed there."""

    def gone(*_arguments, **_options):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, step, gone)
        call(*arguments, **options)


@pytest.mark.parametrize("damage", ["flip a bit", "cut it short", "lose it"])
def test_a_damaged_block_is_named_and_computed_again(
    tmp_path, monkeypatch, source, expected, damage
):
    """One that is lost is computed again at once: what is done is what is there."""
    target = tmp_path / "out.zarr"
    interrupt_before("boundary_block", segment_affinities, source, target, **OPTIONS)
    shard = target / "fragments/0/c/1/0/1"
    content = bytearray(shard.read_bytes())
    if damage == "flip a bit":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "cut it short":
        shard.write_bytes(content[: len(content) // 2])
    else:
        shard.unlink()
    if shard.exists():
        message = r"fragments in .* damaged or missing in block \[12:24, 0"
        with pytest.raises(BlockError, match=message):
            segment_affinities(source, target, **OPTIONS)
    calls = fail_at(monkeypatch, -1, None)
    segment_affinities(source, target, **OPTIONS)
    assert calls.count("fragments") == 1
    np.testing.assert_array_equal(open_volume(target)[...], expected)


@pytest.mark.parametrize("kept", [0, 200, None])
def test_damaged_boundaries_are_counted_again(tmp_path, monkeypatch, source, expected, kept):
    keep_open_files(monkeypatch)
    target = tmp_path / "out.zarr"
    interrupt_before("agglomerate_blocks", segment_affinities, source, target, **OPTIONS)
    path = target / "progress/boundaries/0/1/0.npz"
    content = path.read_bytes()
    path.write_bytes(content[:kept] if kept is not None else content[:90] + b"?" + content[91:])
    with pytest.raises(OSError, match=r"0/1/0\.npz is damaged or missing"):
        segment_affinities(source, target, **OPTIONS)
    segment_affinities(source, target, **OPTIONS)
    np.testing.assert_array_equal(open_volume(target)[...], expected)


def test_damaged_affinities_of_the_run_itself_are_predicted_again(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (9, 40, 40), np.uint8)
    source = write_volume(tmp_path / "raw.zarr", raw, (8, 8, 8))
    model = write_model(tmp_path / "some.model", "cnn-3d")
    options = {"block": (9, 20, 20), **QUIET}
    segment_volume(source, tmp_path / "expected.zarr", model, **options)
    target = tmp_path / "out.zarr"
    interrupt_before("boundary_block", segment_volume, source, target, model, **options)
    shards(target, "affinities")[3].write_bytes(b"cut short")
    with pytest.raises(BlockError, match=r"affinities in .* damaged or missing"):
        segment_volume(source, target, model, **options)
    segment_volume(source, target, model, **options)
    for name in ("affinities", "segmentation"):
        result, expected = (open_volume(tmp_path / f"{x}.zarr", name) for x in ("out", "expected"))
        np.testing.assert_array_equal(result[...], expected[...])


def test_a_value_that_is_no_number_is_named(tmp_path):
    raw = np.zeros((9, 40, 40), np.float32)
    raw[4, 30, 30] = np.nan
    source = write_volume(tmp_path / "raw.zarr", raw)
    model = write_model(tmp_path / "some.model", "cnn-3d")
    with pytest.raises(BlockError, match=r"block \[0:9, 20:40, 20:40\].* \[4, 14, 14\]"):
        predict_volume(source, tmp_path / "out.zarr", model, block=(9, 20, 20), **QUIET)


# ---- outputs that exist ----------------------------------------------------------------------


def test_a_complete_output_is_kept_unless_told_otherwise(tmp_path, source, expected):
    target = tmp_path / "expected.zarr"
    with pytest.raises(FileExistsError, match="is complete already"):
        segment_affinities(source, target, **OPTIONS)
    segment_affinities(source, target, overwrite=True, **{**OPTIONS, "threshold": 0.9})
    assert (open_volume(target)[...] != expected).any()


def test_other_settings_do_not_go_on_with_an_output(tmp_path, monkeypatch, source):
    with monkeypatch.context() as patch:
        fail_at(patch, 2, OSError("stop"))
        with pytest.raises(BlockError):
            segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    with pytest.raises(FileExistsError, match=r"threshold was 0\.5 and is 0\.6"):
        segment_affinities(source, tmp_path / "out.zarr", **{**OPTIONS, "threshold": 0.6})


def test_with_overwrite_too_an_interrupted_call_goes_on(tmp_path, monkeypatch, source, expected):
    target, options = tmp_path / "out.zarr", {**OPTIONS, "overwrite": True}
    segment_affinities(source, target, **{**options, "threshold": 0.9})
    with monkeypatch.context() as patch:
        fail_at(patch, 4, OSError("stop"))
        with pytest.raises(BlockError, match="the same call goes on from there"):
            segment_affinities(source, target, **options)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, -1, None)
        segment_affinities(source, target, **options)
    assert calls.count("fragments") == 5
    np.testing.assert_array_equal(open_volume(target)[...], expected)
    calls = fail_at(monkeypatch, -1, None)
    segment_affinities(source, target, **options)
    assert calls.count("fragments") == 8  # what is complete is computed anew


def test_damaged_notes_can_be_overwritten(tmp_path, source, expected):
    target = tmp_path / "expected.zarr"
    (target / "progress/zarr.json").write_text("{")
    with pytest.raises(FileExistsError, match="damaged notes"):
        segment_affinities(source, target, **OPTIONS)
    segment_affinities(source, target, overwrite=True, **OPTIONS)
    np.testing.assert_array_equal(open_volume(target)[...], expected)


@pytest.mark.parametrize("kind", ["hdf", "zarr"])
def test_another_version_of_the_source_is_not_gone_on_with(tmp_path, monkeypatch, affinities, kind):
    def write(values):
        if kind == "zarr":
            shutil.rmtree(tmp_path / "changing.zarr", ignore_errors=True)
            return write_volume(tmp_path / "changing.zarr", values, (8, 8, 8))
        (tmp_path / "changing.hdf").unlink(missing_ok=True)
        with h5py.File(tmp_path / "changing.hdf", "w") as file:
            file["affinities"] = values
            file["affinities"].attrs["resolution"] = (8.0, 8.0, 8.0)
        return open_volume(tmp_path / "changing.hdf")

    with monkeypatch.context() as patch:
        fail_at(patch, 2, OSError("stop"))
        with pytest.raises(BlockError):
            segment_affinities(write(affinities), tmp_path / "out.zarr", **OPTIONS)
    changed = write(1 - affinities)
    with pytest.raises(FileExistsError, match=r"begun with other settings \(source was "):
        segment_affinities(changed, tmp_path / "out.zarr", **OPTIONS)
    segment_affinities(changed, tmp_path / "out.zarr", overwrite=True, **OPTIONS)


def test_what_is_not_ours_is_never_removed(tmp_path, source):
    thesis = tmp_path / "folder" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    other = tmp_path / "other.zarr"
    shutil.copytree(tmp_path / "affinities.zarr", other)
    for target in (thesis, thesis.parent, other):
        with pytest.raises(FileExistsError, match="no output of a blockwise run"):
            segment_affinities(source, target, overwrite=True, **OPTIONS)
    for target in (tmp_path / "affinities.zarr", tmp_path):
        with pytest.raises(ValueError, match="holds the source"):
            segment_affinities(source, target, overwrite=True, **OPTIONS)
    assert thesis.read_text() == "years of work"
    assert source[0, 0, 0, :2].shape == (2,)


def test_an_output_that_cannot_be_begun_leaves_nothing(tmp_path, monkeypatch, source):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    segment_affinities(source, tmp_path / "old.zarr", **OPTIONS)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("malis.scale.output.create_ome_zarr", full)
    for target in ("out.zarr", "old.zarr"):
        with pytest.raises(OSError, match="No space left"):
            segment_affinities(source, tmp_path / target, overwrite=True, **OPTIONS)
    assert sorted(tmp_path.iterdir()) == before
    assert open_volume(tmp_path / "old.zarr")[...].any()  # what was to be replaced is still there


def test_an_output_that_another_run_is_writing_is_refused(tmp_path, monkeypatch, source, expected):
    """With and without leave to overwrite; and when the other run is gone, it is free again."""
    target = tmp_path / "out.zarr"
    refused = []

    def second_run(*arguments):
        if not refused:
            for overwrite in (False, True):
                with pytest.raises(
                    FileExistsError, match="is being written by another run"
                ) as error:
                    segment_affinities(source, target, overwrite=overwrite, **OPTIONS)
                refused.append(error)
        fragment_block(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "fragment_block", second_run)
        segment_affinities(source, target, **OPTIONS)
    assert len(refused) == 2
    np.testing.assert_array_equal(open_volume(target)[...], expected)
    segment_affinities(source, target, overwrite=True, **OPTIONS)


# ---- bad input -------------------------------------------------------------------------------


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"offsets": [(-1, 0, 0), (0, -1, 0)]}, "one channel for each of the offsets"),
        ({"offsets": [(-1, 0), (0, -1), (0, 1)]}, "one channel for each of the offsets"),
        ({"linkage": "quantile"}, "linkage must be one of mean, single, got 'quantile'"),
        ({"absorb": -1}, "absorb must be a number of voxels, got -1"),
        ({"block": (8, 8)}, r"block must be 3 positive numbers \(z, y, x\), got \(8, 8\)"),
        ({"halo": -1}, "halo must not be negative"),
        ({"workers": -1}, "workers must not be negative"),
        ({"workers": 1, "memory_per_worker": "100MB"}, "a worker has 0.09 GiB; choose a smaller"),
        ({"workers": 1, "memory_per_worker": "plenty"}, "plenty"),
        ({"scheduler": "tcp://127.0.0.1:9", "memory_per_worker": "1GB"}, "local cluster"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, source, change, message):
    with pytest.raises(ValueError, match=message) as error:
        segment_affinities(source, tmp_path / "out.zarr", **{**OPTIONS, **change})
    assert one_line(error)
    assert not (tmp_path / "out.zarr").exists()


def test_a_target_must_be_a_folder(source):
    with pytest.raises(ValueError, match="target must be a folder that all workers see, got s3:"):
        segment_affinities(source, "s3://bucket/out.zarr", **OPTIONS)


def test_raw_data_are_no_affinities_and_affinities_no_raw_data(tmp_path, source):
    raw = write_volume(tmp_path / "raw.zarr", np.zeros((9, 20, 20), np.uint8))
    model = write_model(tmp_path / "some.model", "cnn-3d")
    with pytest.raises(
        ValueError, match=r"must have the axes \(c, z, y, x\) of aff.*got \(9, 20, 20\)"
    ):
        segment_affinities(raw, tmp_path / "out.zarr", **OPTIONS)
    with pytest.raises(ValueError, match="source must be a volume") as error:
        segment_volume(source, tmp_path / "out.zarr", model, **QUIET)
    assert one_line(error)
    signed = write_volume(tmp_path / "signed.zarr", np.zeros((9, 20, 20), np.int16))
    with pytest.raises(TypeError, match="raw must hold unsigned integers or floats, got int16"):
        segment_volume(signed, tmp_path / "out.zarr", model, **QUIET)


def test_a_flat_volume_needs_no_block_as_large_as_the_field_of_view(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (5, 40, 40), np.uint8)
    source = write_volume(tmp_path / "raw.zarr", raw)
    model = write_model(tmp_path / "some.model", "cnn-3d")
    predict_volume(source, tmp_path / "out.zarr", model, block=(64, 20, 20), **QUIET)
    assert open_volume(tmp_path / "out.zarr").shape == (3, 5, 40, 40)


def test_the_fit_of_offsets_is_read_from_the_source(tmp_path, affinities):
    offsets = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    source = write_volume(tmp_path / "positive.zarr", affinities, (8, 8, 8), offsets=offsets)
    segment_affinities(source, tmp_path / "out.zarr", **OPTIONS)
    settings = zarr.open_group(tmp_path / "out.zarr/progress").attrs["settings"]
    assert settings["offsets"] == [list(step) for step in offsets]
    assert re.fullmatch(r".*positive\.zarr/0", settings["source"][0])
    assert settings["version"] == VERSION
    assert nearest_offsets(3) != tuple(map(tuple, settings["offsets"]))
