"""A run: its output, its workers, its steps one after the other, and the report at the end."""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from malis.scale.cluster import connect, run_step
from malis.scale.graph import agglomerate_blocks
from malis.scale.memory import check_memory, memory_limit
from malis.scale.output import Output, begin_output, finish_output
from malis.scale.stages import (
    Recipe,
    average_block,
    boundary_block,
    fragment_block,
    label_block,
    predict_block,
    sampled_inside,
)
from malis.scale.volumes import StoredArray, pyramid

logger = logging.getLogger(__name__)


class Options(NamedTuple):
    """What does not change the result; see `malis.scale.segment_volume`."""

    workers: int
    scheduler: str | None
    memory_per_worker: str | int | None
    overwrite: bool
    progress: bool


@dataclass
class Run:
    """A run at work.

    Attributes
    ----------
    output : Output
    client : distributed.Client or None
    progress : bool
        Show progress bars.
    memory_needed, memory_limit : int or None
        Of a worker, in bytes.
    begin : float
        When it began.
    """

    output: Output
    client: Any
    progress: bool
    memory_needed: int
    memory_limit: int | None
    begin: float = field(default_factory=time.perf_counter)

    def predict(
        self,
        source: StoredArray,
        checkpoint: Path,
        tile: int | Sequence[int] | None,
        device: str | None,
    ) -> None:
        """Do the step from raw data to affinities."""
        self._step("affinities", predict_block, source, checkpoint, tile, device)

    def segment(
        self, affinities: StoredArray | None, recipe: Recipe, threshold: float, linkage: str
    ) -> None:
        """Do the steps from affinities, by default the output's own, to labels."""
        if recipe.inside is None:
            self._step("averages", average_block, affinities, recipe)
            recipe = recipe._replace(inside=sampled_inside(self.output))
        self._step("fragments", fragment_block, affinities, recipe)
        self._step("boundaries", boundary_block, affinities, recipe)
        agglomerate_blocks(self.output, linkage=linkage, threshold=threshold, link=recipe.link)
        levels = pyramid(self.output.shape, self.output.block, recipe.resolution)
        self._step("segmentation", label_block, levels)

    def report(self) -> dict[str, Any]:
        """Note that the output is complete, and say what it took."""
        finish_output(self.output)
        steps = sorted(path.stem for path in self.output.file("").glob("*.txt"))
        notes = {step: self.output.done(step).values() for step in steps}
        peaks = [note.peak_memory for step in notes.values() for note in step]
        return {
            "target": str(self.output.path),
            "n_blocks": self.output.n_blocks,
            "seconds": time.perf_counter() - self.begin,
            "cpu_seconds": {s: sum(n.cpu_seconds for n in notes[s]) for s in notes},
            "memory_needed": self.memory_needed,
            "memory_limit": self.memory_limit,
            "memory_peak": max(peaks, default=0),
        }

    def _step(self, name: str, work: Any, *arguments: Any) -> None:
        work = functools.partial(work, self.output, *arguments)
        run_step(self.output, name, work, self.client, progress=self.progress)


@contextmanager
def start(
    target: str | Path,
    settings: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
    *,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    memory_needed: int,
    options: Options,
) -> Iterator[Run]:
    """Begin an output or go on with it, and start workers or connect to them.

    Parameters
    ----------
    target, settings, arrays, shape, block
        See `begin_output`.
    memory_needed : int
        Of a worker, in bytes.
    options : Options

    Yields
    ------
    Run

    Raises
    ------
    ValueError
        If options contradict each other, or a worker's memory is too small for a block.
    """
    if options.workers < 0:
        raise ValueError(f"workers must not be negative, got {options.workers}")
    if options.scheduler is not None and options.memory_per_worker is not None:
        raise ValueError("memory_per_worker is for a local cluster; set it where workers start")
    limit = None
    if options.scheduler is None and options.workers > 0:
        limit = memory_limit(options.workers, options.memory_per_worker)
        check_memory(memory_needed, limit, block)
    begun = begin_output(
        target, settings, arrays, shape=shape, block=block, overwrite=options.overwrite
    )
    with begun as output, connect(options.workers, options.scheduler, limit) as client:
        needed = memory_needed / 2**30
        logger.info("%d blocks; a worker needs up to %.2f GiB", output.n_blocks, needed)
        yield Run(output, client, options.progress, memory_needed, limit)
