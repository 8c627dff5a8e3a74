"""The output of a run: a folder whose files say what is done.

    OUT.zarr/affinities, fragments, segmentation    OME-Zarr images
    OUT.zarr/progress                               the settings of the run (as attributes), tables
                                                    of the blocks, and the region graph

A step writes one file a block, which gets its name when it is complete: where the file is, the
block is done. A run that is started again with the same settings skips these blocks. What is
missing, or whose checksum is wrong, is noticed when it is read; then the file is deleted, so that
the next run computes the block again.
"""

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cremi_eval.atomic import atomic_write
from malis._checks import extra_package
from malis.scale.blocks import Block, Box, cut_into_blocks
from malis.scale.ome_zarr import create_ome_zarr

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

PROGRESS = "progress"
# What voxels read as that were never written; no block holds these values.
UNWRITTEN = {"affinities": np.float32(np.nan), "fragments": np.uint64(2**64 - 1)}
TABLES = ("averages", "boundaries")  # steps that write tables; the others write arrays
DAMAGE = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


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

    def file(self, name: str) -> Path:
        """Return the path of a file about the whole run."""
        return self.path / PROGRESS / name

    def file_of(self, step: str, block: Block) -> Path:
        """Return the path of what a step writes for a block."""
        if step in TABLES:
            return Path(f"{self.path}/{PROGRESS}/{step}/{block.name}.npz")
        channels = "0/" if step == "affinities" else ""
        return Path(f"{self.path}/{step}/0/c/{channels}{block.name}")

    def pending(self, step: str) -> list[Block]:
        """Return the blocks for which a step is not done."""
        return [block for block in self.blocks if not self.file_of(step, block).exists()]

    def read(self, name: str, box: Box) -> np.ndarray:
        """Read a box of one of the arrays that blocks have written.

        Raises
        ------
        OSError
            If a block of it is damaged or missing.
        """
        array = extra_package("zarr", "scale").open_array(self.path / name / "0", mode="r")
        values = _if_whole(array, box, UNWRITTEN[name])
        if values is not None:
            return values
        blocks = cut_into_blocks(self.shape, self.block, box)
        damaged = [b for b in blocks if _if_whole(array, b.box, UNWRITTEN[name]) is None]
        for block in damaged:
            self.file_of(name, block).unlink(missing_ok=True)
        raise OSError(
            f"{name} in {self.path} are damaged or missing in {', '.join(map(str, damaged))}; the "
            "next run computes them again"
        )

    def write(self, name: str, box: Box, values: np.ndarray, level: int = 0) -> None:
        """Write a box of one of the arrays."""
        zarr = extra_package("zarr", "scale")
        with zarr.config.set({"array.write_empty_chunks": True}):  # a file, even if all is 0
            array = zarr.open_array(self.path / name / str(level), mode="r+")
        array[(..., *box)] = values

    def read_tables(self, step: str) -> list[dict[str, np.ndarray]]:
        """Read the tables that a step wrote, block by block.

        Raises
        ------
        OSError
            If one is damaged or missing.
        """
        tables = []
        for path in (self.file_of(step, block) for block in self.blocks):
            try:
                with path.open("rb") as file, np.load(file) as content:
                    tables.append(dict(content))
            except DAMAGE as error:
                path.unlink(missing_ok=True)
                raise OSError(
                    f"{path} is damaged or missing; the next run computes it again"
                ) from error
        return tables

    def complete(self) -> None:
        """Note that nothing is left to do."""
        progress = extra_package("zarr", "scale").open_group(self.path / PROGRESS, mode="r+")
        progress.attrs["complete"] = True


@functools.lru_cache(maxsize=1)
def _all_blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[Block, ...]:
    return tuple(cut_into_blocks(shape, block))


def _if_whole(array: Any, box: Box, never: np.generic) -> np.ndarray | None:
    """Read a box of an array; None if some of it is damaged or was never written."""
    try:
        values = array[(..., *box)]
    except DAMAGE:
        return None
    unwritten = np.isnan(values) if np.isnan(never) else values == never
    return None if unwritten.any() else values


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a small file for writing; it gets its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, durable=False) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def begin_output(
    output: Output, settings: dict[str, Any], arrays: dict[str, dict[str, Any]], overwrite: bool
) -> Iterator[None]:
    """Create the output of a run, or go on with the one that was begun; keep others from it.

    `settings` are all that the result depends on, as JSON; `arrays` has for every array to create
    its name and the arguments of `create_ome_zarr`. With `overwrite`, an output that is there is
    removed, unless it was begun with these settings and is not finished.

    Raises
    ------
    FileExistsError
        If there is something at the target that is not ours, that another run is writing or,
        without `overwrite`, that is complete or of other settings.
    """
    target = output.path
    settings = json.loads(json.dumps(settings))
    there = target.exists() and any(target.iterdir() if target.is_dir() else [target])
    if there and not output.file("zarr.json").exists():
        raise FileExistsError(f"{target} exists and is no output of a blockwise run")
    with contextlib.ExitStack() as stack:
        if there:
            stack.enter_context(_locked(output))
        obstacle = _obstacle(output, settings) if there else None
        if there and obstacle is None:
            logger.info("going on with %s", target)
            for part in target.rglob("*.part*"):  # of files that were being written
                part.unlink()
        elif there and not overwrite:
            raise FileExistsError(f"{target} {obstacle}")
        else:
            _create(output, settings, arrays)
            stack.enter_context(_locked(output))
        yield


def _create(output: Output, settings: dict[str, Any], arrays: dict[str, dict[str, Any]]) -> None:
    """Create an output under a temporary name; only then remove what is at the target."""
    target = output.path
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        root = extra_package("zarr", "scale").create_group(part, zarr_format=3)
        for name, arguments in arrays.items():
            fill = UNWRITTEN.get(name, 0)
            create_ome_zarr(part / name, block=output.block, fill_value=fill, **arguments)
        root.create_group(PROGRESS).attrs["settings"] = settings
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(output: Output) -> Iterator[None]:
    """Refuse an output that another run is writing, as far as system and disk know of locks."""
    if fcntl is None:
        yield
        return
    folder = os.open(output.file(""), os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(f"{output.path} is being written by another run") from error
        except OSError as error:  # a file system without locks
            logger.debug("%s cannot be locked: %s", output.path, error)
        yield
    finally:
        os.close(folder)


def _obstacle(output: Output, settings: dict[str, Any]) -> str | None:
    """Say why an output is not to be gone on with; None if it was begun so and is not finished."""
    try:
        notes = dict(extra_package("zarr", "scale").open_group(output.file(""), mode="r").attrs)
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
