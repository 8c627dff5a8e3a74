"""A run: its output, its workers, its steps one after the other, and the report at the end."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malis._checks import extra_package
from malis.scale.cluster import connect, run_step
from malis.scale.graph import agglomerate_blocks
from malis.scale.ome_zarr import pyramid
from malis.scale.output import Output, begin_output
from malis.scale.stages import (
    Recipe,
    average_block,
    boundary_block,
    fragment_block,
    label_block,
    predict_block,
    sampled_inside,
)
from malis.scale.volumes import StoredArray

logger = logging.getLogger(__name__)

VERSION = 7  # raise it when the same settings give another result, or files, than before


@dataclass
class Run:
    """A run at work: on an output, by a Dask client or in this process, since a time."""

    output: Output
    client: Any
    progress: bool
    begin: float
    facts: dict[str, Any]  # what its report says besides

    def step(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """Call ``work(output, *arguments, block)`` for all blocks for which it is not done."""
        work = functools.partial(work, self.output, *arguments)
        run_step(self.output, name, work, self.client, progress=self.progress)

    def predict(
        self,
        source: StoredArray,
        checkpoint: str | Path,
        tile: int | Sequence[int] | None,
        device: str | None,
    ) -> None:
        """Do the step from raw data to affinities."""
        path = Path(checkpoint).absolute()
        self.step("affinities", predict_block, source, path, tile, device)

    def segment(
        self,
        affinities: StoredArray | None,
        recipe: Recipe,
        threshold: float,
        linkage: str,
        absorb: int,
    ) -> None:
        """Do the steps from affinities, by default the output's own, to labels."""
        if recipe.inside is None:
            self.step("averages", average_block, affinities, recipe)
            recipe = recipe._replace(inside=sampled_inside(self.output))
        self.step("fragments", fragment_block, affinities, recipe)
        self.step("boundaries", boundary_block, affinities, recipe)
        merging = {"linkage": linkage, "threshold": threshold, "absorb": absorb}
        agglomerate_blocks(self.output, **merging, link=recipe.link)
        levels = pyramid(self.output.shape, self.output.block, recipe.resolution)
        self.step("segmentation", label_block, levels)

    def finish(self) -> dict[str, Any]:
        """Note that nothing is left to do, and report; see `malis.scale.segment_volume`."""
        self.output.complete()
        return {
            "target": str(self.output.path),
            "n_blocks": self.output.n_blocks,
            "seconds": time.perf_counter() - self.begin,
            **self.facts,
        }


@contextmanager
def start(
    source: StoredArray,
    target: str | Path,
    block: tuple[int, ...],
    settings: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
    memory_needed: int,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    memory_per_worker: str | int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Iterator[Run]:
    """Begin an output or go on with it, and start workers or connect to them.

    `settings` are what the result depends on besides source and block, as JSON; `arrays` has for
    every array to create its name and arguments of `create_ome_zarr`, of which others follow from
    source and block; a worker needs `memory_needed` bytes. See `malis.scale.segment_volume` for the
    rest.

    Raises
    ------
    ValueError
        If options contradict each other, the target is none, or a worker's memory is too small for
        a block.
    """
    begin = time.perf_counter()
    if "://" in str(target):
        raise ValueError(f"target must be a folder that all workers see, got {target}")
    place = Path(source.path).resolve() / source.dataset
    if "://" not in source.path and place.is_relative_to(Path(target).resolve()):
        raise ValueError(f"the target {target} holds the source {source.name}: take another name")
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if scheduler is not None and memory_per_worker is not None:
        raise ValueError("memory_per_worker is for a local cluster; set it where workers start")
    limit = None
    if scheduler is None and workers > 0:
        limit = _memory_limit(workers, memory_per_worker)
        if memory_needed > limit:
            raise ValueError(
                f"block {block} needs up to {memory_needed / 2**30:.2f} GiB a worker, but a worker "
                f"has {limit / 2**30:.2f} GiB; choose a smaller block or tile, or more memory per "
                "worker"
            )
    place = {"resolution": source.resolution, "offset": source.offset}
    arrays = {name: place | arguments for name, arguments in arrays.items()}
    settings = {"version": VERSION, "source": _identity(source), "block": block, **settings}
    output = Output(Path(target).absolute(), source.shape[-3:], block)
    with (
        begin_output(output, settings, arrays, overwrite),
        connect(workers, scheduler, limit) as client,
    ):
        needed = memory_needed / 2**30
        logger.info("%d blocks; a worker needs up to %.2f GiB", output.n_blocks, needed)
        facts = {"memory_needed": memory_needed, "memory_limit": limit}
        yield Run(output, client, progress, begin, facts)


def _memory_limit(workers: int, memory_per_worker: str | int | None) -> int:
    """Return what a worker may use, in bytes: by default its share of most of the machine's."""
    if memory_per_worker is not None:
        return int(extra_package("dask.utils", "scale").parse_bytes(memory_per_worker))
    return int(0.9 * extra_package("distributed.system", "scale").MEMORY_LIMIT / workers)


def _identity(source: StoredArray) -> list[Any]:
    """Say which volume it is, and which version of it.

    Of a file, that is its size and when it was changed; of a Zarr folder, those of the array's
    metadata, which tell an array that was created anew, but not one whose chunks were rewritten.
    """
    facts = [source.name, source.shape, str(source.dtype), source.resolution, source.offset]
    facts += [source.grey_range] if source.grey_range else []
    if "://" in source.path:
        return facts
    path = Path(source.path)
    array = path / source.dataset
    files = [path] if path.is_file() else [array / "zarr.json", array / ".zarray"]
    states = [file.stat() for file in files if file.exists()]
    return [*facts, *((state.st_size, state.st_mtime_ns) for state in states)]
