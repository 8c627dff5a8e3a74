"""Blocks on the workers of a `dask.distributed` cluster.

Dask moves tasks, not voxels: a worker reads its block from the source and writes the result itself.
A task whose worker has died is given to another one; doing a block twice does no harm.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from malis._checks import extra_package
from malis.scale.blocks import Block
from malis.scale.output import Output

# A worker that reaches its memory limit is ended and its block tried again, at most this often.
# Dask's other measures (spilling results to disk, pausing) suit workers that keep results.
MEMORY = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.allowed-failures": 2,
}


class BlockError(OSError):
    """A block could not be computed; those that are done are kept."""


@contextlib.contextmanager
def connect(workers: int, scheduler: str | None, memory_limit: int | None) -> Iterator[Any]:
    """Start a local cluster, or connect to one that runs; see `malis.scale.segment_volume`.

    Yields a `distributed.Client`, or None where blocks are computed in this process.
    """
    if scheduler is None and workers == 0:
        yield None
        return
    dask, distributed = extra_package("dask", "scale"), extra_package("distributed", "scale")
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=5)
        except (OSError, ValueError, TimeoutError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {scheduler}") from error
        with client:
            yield client
        return
    with (
        dask.config.set(MEMORY),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit,
            env={"ZARR_THREADING__MAX_WORKERS": "1"},  # a worker is one core
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def run_step(
    output: Output,
    step: str,
    work: Callable[[Block], None],
    client: Any = None,
    *,
    progress: bool = True,
) -> None:
    """Do a step for all blocks for which it is not done.

    `work` computes and writes one block; it is picklable. Without a `distributed.Client`, blocks
    are computed here, one after the other. Raises `BlockError` if one fails.
    """
    pending, total = output.pending(step), output.n_blocks
    if not pending:
        return
    work = functools.partial(_do_block, step, work)
    computed = map(work, pending) if client is None else _on_cluster(work, pending, client)
    bar = tqdm(
        total=total, initial=total - len(pending), desc=step, unit="block", disable=not progress
    )
    try:
        with bar:
            for _ in computed:
                bar.update()
    except OSError as error:
        kept = f"{total - len(output.pending(step))} of {total} blocks are done and kept"
        raise BlockError(
            f"{_one_line(error)} ({step}: {kept}; the same call goes on from there)"
        ) from error


def _do_block(step: str, work: Callable[[Block], None], block: Block) -> None:
    """Compute a block; runs on a worker."""
    try:
        work(block)
    except (OSError, ValueError, RuntimeError) as error:
        raise BlockError(f"{step} of {block}: {_one_line(error)}") from error


def _on_cluster(work: Callable[[Block], None], blocks: list[Block], client: Any) -> Iterator[None]:
    distributed = extra_package("distributed", "scale")
    futures = client.map(work, blocks, pure=False)
    try:
        for future in distributed.as_completed(futures):
            yield future.result()
    except distributed.scheduler.KilledWorker as error:
        raise BlockError(
            "workers died again and again on one block, most likely for lack of memory; choose a "
            "smaller block or tile, or more memory per worker"
        ) from error
    finally:
        client.cancel(futures)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
