"""The output of a run: its arrays, and notes on what is done.

    OUT.zarr/affinities, fragments, segmentation    OME-Zarr images
    OUT.zarr/progress                               the settings of the run (as attributes), the
                                                    region graph, and for every step a file with one
                                                    line a finished block

A block's line is written after its voxels: where there is a line, the block is complete. A run that
is started again with the same settings skips these blocks. Voxels that were never written, or whose
checksum is wrong, are noticed when they are read; then the line is taken away, so that the next run
computes the block again. Only the process that gives out the blocks writes lines.
"""

import contextlib
import functools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cremi_eval.atomic import atomic_write
from malis.scale.blocks import Block, Box, cut_into_blocks
from malis.scale.ome_zarr import create_ome_zarr
from malis.scale.packages import scale_package
from malis.scale.zarr_folders import PROGRESS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

# What voxels read as that were never written; no block holds these values.
UNWRITTEN = {"affinities": np.float32(np.nan), "fragments": np.uint64(2**64 - 1)}


class Note(NamedTuple):
    """What a block took: seconds, and the most memory that its worker has had, in bytes."""

    seconds: float
    cpu_seconds: float
    peak_memory: int


class DamageError(OSError):
    """What earlier steps wrote is damaged or missing.

    Attributes
    ----------
    step : str
        The step that wrote it.
    blocks : list of Block
        Those to be computed again.
    """

    def __init__(self, message: str, step: str, blocks: list[Block]) -> None:
        super().__init__(message)
        self.step, self.blocks = step, blocks

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.step, self.blocks)


@dataclass(frozen=True)
class Output:
    """The folder that a run writes to.

    Attributes
    ----------
    path : Path
        The Zarr group.
    shape, block : (3,) tuples of int
        Size of the volume and of a block.
    """

    path: Path
    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return math.prod(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    @property
    def blocks(self) -> Sequence[Block]:
        """All blocks, in C order."""
        return _all_blocks(self.shape, self.block)

    def done(self, step: str) -> dict[str, Note]:
        """Return the notes on the blocks for which a step is done, by the blocks' names."""
        path = self.file(f"{step}.txt")
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        rows = (line.split(" ") for line in lines)
        return {row[0]: Note(*map(float, row[1:3]), int(row[3])) for row in rows if len(row) == 4}

    @contextmanager
    def noting(self, step: str, done: dict[str, Note]) -> Iterator[Callable[[Block, Note], Any]]:
        """Give a function that notes that a step is done for a block, beside those of `done`."""
        self._rewrite(step, done)  # without a line that was being written
        with self.file(f"{step}.txt").open("a", buffering=1) as file:
            yield lambda block, note: file.write(_line(block.name, note))

    def forget(self, step: str, blocks: Sequence[Block]) -> None:
        """Remove notes, and the files of an array's blocks, so that they are computed again."""
        notes = self.done(step)
        shards = self.path / step / "0" / "c"
        for block in blocks:
            notes.pop(block.name, None)
            place = "/".join(map(str, block.place))
            for file in (*shards.glob(place), *shards.glob(f"*/{place}")):  # of every channel
                if file.is_file():
                    file.unlink()
        self._rewrite(step, notes)

    def _rewrite(self, step: str, notes: dict[str, Note]) -> None:
        write_file(self.file(f"{step}.txt"), "".join(map(_line, notes, notes.values())).encode())

    def file(self, name: str) -> Path:
        """Return the path of a file about the whole run."""
        return self.path / PROGRESS / name

    def read(self, name: str, box: Box) -> np.ndarray:
        """Read a box of one of the arrays that blocks have written.

        Raises
        ------
        DamageError
            If a block of it is damaged or missing.
        """
        array = scale_package("zarr").open_array(self.path / name / "0", mode="r")
        channels = (slice(None),) * (array.ndim - 3)
        if _is_whole(name, values := _try(array, (*channels, *box))):
            return values
        damaged = [
            block
            for block in cut_into_blocks(self.shape, self.block, box)
            if not _is_whole(name, _try(array, (*channels, *block.box)))
        ]
        raise DamageError(
            f"{name} in {self.path} are damaged or missing in {', '.join(map(str, damaged))}; the "
            "next run computes them again",
            name,
            damaged,
        )

    def write(self, name: str, box: Box, values: np.ndarray, level: int = 0) -> None:
        """Write a box of one of the arrays."""
        array = scale_package("zarr").open_array(self.path / name / str(level), mode="r+")
        array[(slice(None),) * (values.ndim - 3) + box] = values


@functools.lru_cache(maxsize=1)
def _all_blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[Block, ...]:
    return tuple(cut_into_blocks(shape, block))


def _line(name: str, note: Note) -> str:
    return f"{name} {note.seconds:.6f} {note.cpu_seconds:.6f} {note.peak_memory}\n"


def _try(array: Any, box: Box) -> np.ndarray | None:
    try:
        return array[box]
    except (OSError, ValueError, RuntimeError) as error:  # what codecs raise on damaged bytes
        logger.debug("%s cannot be read: %s", array.store_path, error)
        return None


def _is_whole(name: str, values: np.ndarray | None) -> bool:
    if values is None:
        return False
    never = UNWRITTEN[name]
    return not (np.isnan(values) if np.isnan(never) else values == never).any()


@contextmanager
def begin_output(
    target: str | Path,
    settings: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
    *,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    overwrite: bool,
) -> Iterator[Output]:
    """Create the output of a run, or go on with the one that was begun; keep others from it.

    Parameters
    ----------
    target : str or Path
        The folder.
    settings : dict
        All that the result depends on, as JSON.
    arrays : dict of dict
        For every array to create its name and the arguments of `create_ome_zarr`.
    shape, block : (3,) tuples of int
    overwrite : bool
        Remove an output that is there, unless it was begun with these settings and is not finished.

    Yields
    ------
    Output

    Raises
    ------
    FileExistsError
        If there is something at the target that is not ours, that another run is writing or,
        without `overwrite`, that is complete or of other settings.
    ValueError
        If the target is a URL.
    """
    if "://" in str(target):
        raise ValueError(f"target must be a folder that all workers see, got {target}")
    target = Path(target).absolute()
    settings = json.loads(json.dumps(settings))
    there = target.exists() and any(target.iterdir() if target.is_dir() else [target])
    if there and not (target / PROGRESS / "zarr.json").exists():
        raise FileExistsError(f"{target} exists and is no output of a blockwise run")
    with contextlib.ExitStack() as stack:
        if there:
            stack.enter_context(_locked(target))
        obstacle = _obstacle(target, settings) if there else None
        if there and obstacle is None:
            logger.info("going on with %s", target)
            for part in target.rglob("*.part*"):  # of files that were being written
                part.unlink()
        elif there and not overwrite:
            raise FileExistsError(f"{target} {obstacle}")
        else:
            _create(target, settings, arrays, block)
            stack.enter_context(_locked(target))
        yield Output(target, shape, block)


def _create(
    target: Path,
    settings: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
    block: tuple[int, ...],
) -> None:
    """Create an output under a temporary name; only then remove what is at the target."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        root = scale_package("zarr").create_group(part, zarr_format=3)
        for name, arguments in arrays.items():
            fill = UNWRITTEN.get(name, 0)
            create_ome_zarr(part / name, block=block, fill_value=fill, **arguments)
        root.create_group(PROGRESS).attrs["settings"] = settings
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Refuse an output that another run is writing, as far as system and disk know of locks."""
    if fcntl is None:
        yield
        return
    folder = os.open(target / PROGRESS, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(f"{target} is being written by another run") from error
        except OSError as error:  # a file system without locks
            logger.debug("%s cannot be locked: %s", target, error)
        yield
    finally:
        os.close(folder)


def finish_output(output: Output) -> None:
    """Note that nothing is left to do."""
    group = scale_package("zarr").open_group(output.path / PROGRESS, mode="r+")
    group.attrs["complete"] = True


def write_file(path: Path, content: bytes) -> None:
    """Write a small file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, durable=False) as temporary:
        temporary.write_bytes(content)


def _obstacle(target: Path, settings: dict[str, Any]) -> str | None:
    """Say why an output is not to be gone on with; None if it was begun so and is not finished."""
    try:
        notes = dict(scale_package("zarr").open_group(target / PROGRESS, mode="r").attrs)
    except ValueError:  # no JSON
        return "has damaged notes; overwrite it or choose another target"
    before = notes.get("settings", {})
    changed = [
        f"{name} was {before.get(name)} and is {settings.get(name)}"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if changed:
        return (
            f"was begun with other settings ({'; '.join(changed)}); overwrite it or choose another "
            "target"
        )
    if notes.get("complete"):
        return "is complete already; overwrite it to compute it again"
    return None
