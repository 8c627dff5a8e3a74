"""Blocks on the workers of a `dask.distributed` cluster.

Dask moves tasks, not voxels: a worker reads its block from the source and writes the result itself.
What it sends back is a note of a few numbers. A task whose worker has died is given to another one;
doing a block twice does no harm.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from malis.scale.blocks import Block
from malis.scale.output import DamageError, Note, Output
from malis.scale.packages import scale_package

logger = logging.getLogger(__name__)

# A worker that reaches its memory limit is ended and its block tried again, at most this often.
# Dask's other measures (spilling results to disk, pausing) suit workers that keep results.
MEMORY = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.allowed-failures": 2,
}


Work = Callable[[Block], Note]


class BlockError(OSError):
    """A block could not be computed; those that are done are kept."""


@contextlib.contextmanager
def connect(workers: int, scheduler: str | None, memory_limit: int | None) -> Iterator[Any]:
    """Start a local cluster, or connect to one that runs.

    Parameters
    ----------
    workers : int
        Processes of the local cluster, one thread each; 0: none, compute in this process.
    scheduler : str, optional
        Address of a scheduler, "tcp://host:8786"; then nothing is started.
    memory_limit : int, optional
        Limit of each local worker in bytes.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    ConnectionError
        If no scheduler answers at the address.
    """
    if scheduler is None and workers == 0:
        yield None
        return
    dask, distributed = scale_package("dask"), scale_package("distributed")
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
) -> int:
    """Do a step for all blocks for which it is not done.

    Parameters
    ----------
    output : Output
    step : str
        Name of the step, for notes and messages.
    work : callable
        Computes and writes one block; picklable.
    client : distributed.Client, optional
        By default blocks are computed here, one after the other.
    progress : bool
        Show a progress bar.

    Returns
    -------
    int
        How many blocks were computed.

    Raises
    ------
    BlockError
        If a block fails; those that are done are kept.
    """
    done = output.done(step)
    if len(done) == output.n_blocks:
        return 0
    pending = [block for block in output.blocks if block.name not in done]
    work = functools.partial(do_block, step, work)
    results = _in_turn(work, pending) if client is None else _on_cluster(work, pending, client)
    total, begun = output.n_blocks, len(done)
    bar = tqdm(total=total, initial=begun, desc=step, unit="block", disable=not progress)
    try:
        with bar, contextlib.closing(results), output.noting(step, done) as note:
            for block, facts in results:
                note(block, facts)
                bar.update()
    except OSError as error:
        if isinstance(error, DamageError):
            output.forget(error.step, error.blocks)
        kept = f"{len(output.done(step))} of {total} blocks are done and kept"
        raise BlockError(
            f"{_one_line(error)} ({step}: {kept}; the same call goes on from there)"
        ) from error
    return len(pending)


def do_block(step: str, work: Callable[[Block], None], block: Block) -> Note:
    """Compute a block, and return what is to be noted about it; runs on a worker."""
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        work(block)
    except DamageError as error:
        raise DamageError(f"{step} of {block}: {error}", error.step, error.blocks) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise BlockError(f"{step} of {block}: {_one_line(error)}") from error
    memory = _peak_memory(int(10 * time.monotonic()))
    return Note(time.perf_counter() - begin, time.process_time() - cpu, memory)


def _in_turn(work: Work, blocks: list[Block]) -> Iterator[tuple[Block, Note]]:
    yield from ((block, work(block)) for block in blocks)


def _on_cluster(work: Work, blocks: list[Block], client: Any) -> Iterator[tuple[Block, Note]]:
    distributed = scale_package("distributed")
    futures = client.map(work, blocks, pure=False)
    block_of = dict(zip((future.key for future in futures), blocks, strict=True))
    try:
        for future in distributed.as_completed(futures):
            yield block_of[future.key], future.result()
    except distributed.scheduler.KilledWorker as error:
        raise BlockError(
            "workers died again and again on one block, most likely for lack of memory; choose a "
            "smaller block or tile, or more memory per worker"
        ) from error
    finally:
        client.cancel(futures)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@functools.lru_cache(maxsize=1)
def _peak_memory(_tenth_of_a_second: int) -> int:
    """Return the largest memory that this process has had, in bytes (on Linux, else 0)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("VmHWM")), 0)
