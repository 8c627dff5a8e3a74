"""The output of a run: its arrays, and notes on what is done.

    OUT.zarr/affinities, fragments, segmentation    OME-Zarr images
    OUT.zarr/progress                               the settings of the run (as attributes), a note
                                                    for every finished block, the region graph

A block's note is written after its voxels, under a temporary name that is then changed: where there
is a note, the block is complete. A run that is started again with the same settings skips these
blocks. Voxels that were never written, or whose checksum is wrong, are noticed when they are read;
then the note is taken away, so that the next run computes the block again.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from malis.scale.blocks import Block, Box, cut_into_blocks
from malis.scale.volumes import PROGRESS, create_ome_zarr, scale_package

logger = logging.getLogger(__name__)

# What voxels read as that were never written; no block holds these values.
UNWRITTEN = {"affinities": np.float32(np.nan), "fragments": np.uint64(2**64 - 1)}


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
    def blocks(self) -> list[Block]:
        """All blocks, in C order."""
        return cut_into_blocks(self.shape, self.block)

    def note(self, step: str, block: Block) -> Path:
        """Return the file whose presence says that a step is done for a block."""
        return self.path / PROGRESS / step / f"{block.name}.json"

    def notes(self, step: str) -> list[dict[str, Any]]:
        """Return what was noted about every block that is done."""
        files = sorted((self.path / PROGRESS / step).glob("*.json"))
        return [json.loads(file.read_text()) for file in files]

    def file(self, name: str) -> Path:
        """Return the path of a file about the whole run."""
        return self.path / PROGRESS / name

    def read(self, name: str, box: Box) -> np.ndarray:
        """Read a box of one of the arrays that blocks have written.

        Raises
        ------
        OSError
            If a block of it is damaged or missing; its note is then gone, so that the next run
            computes it again.
        """
        array = scale_package("zarr").open_array(self.path / name / "0", mode="r")
        channels = (slice(None),) * (array.ndim - 3)
        if _is_whole(name, values := _try(array, (*channels, *box))):
            return values
        damaged = []
        for block in filter(lambda block: _meet(block.box, box), self.blocks):
            if not _is_whole(name, _try(array, (*channels, *block.box))):
                self._forget(name, block, array.ndim)
                damaged.append(str(block))
        raise OSError(
            f"{name} in {self.path} are damaged or missing in {', '.join(damaged)}; the next run "
            "computes them again"
        )

    def _forget(self, name: str, block: Block, n_axes: int) -> None:
        """Remove the note on a block and its files, one for every channel."""
        self.note(name, block).unlink(missing_ok=True)
        pattern = "/".join(["*"] * (n_axes - 3) + [str(i) for i in block.place])
        for shard in (self.path / name / "0" / "c").glob(pattern):
            shard.unlink()

    def write(self, name: str, box: Box, values: np.ndarray, level: int = 0) -> None:
        """Write a box of one of the arrays."""
        array = scale_package("zarr").open_array(self.path / name / str(level), mode="r+")
        array[(slice(None),) * (values.ndim - 3) + box] = values


def _meet(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


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


def begin_output(
    target: str | Path,
    settings: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
    *,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    overwrite: bool,
) -> Output:
    """Create the output of a run, or go on with the one that was begun.

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

    Returns
    -------
    Output

    Raises
    ------
    FileExistsError
        If there is something at the target that is not ours or, without `overwrite`, that is
        complete or of other settings.
    ValueError
        If the target is a URL.
    """
    if "://" in str(target):
        raise ValueError(f"target must be a folder that all workers see, got {target}")
    target = Path(target).absolute()
    output = Output(target, shape, block)
    settings = json.loads(json.dumps(settings))
    zarr = scale_package("zarr")
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        if not (target / PROGRESS / "zarr.json").exists():
            raise FileExistsError(f"{target} exists and is no output of a blockwise run")
        obstacle = _obstacle(target, settings)
        if obstacle is None:
            logger.info("going on with %s", target)
            for part in target.rglob("*.part*"):  # of files that were being written
                part.unlink()
            return output
        if not overwrite:
            raise FileExistsError(f"{target} {obstacle}")
        shutil.rmtree(target)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    root = zarr.create_group(part, zarr_format=3)
    for name, arguments in arrays.items():
        fill = UNWRITTEN.get(name, 0)
        create_ome_zarr(part / name, block=block, fill_value=fill, **arguments)
    root.create_group(PROGRESS).attrs["settings"] = settings
    if target.exists():
        target.rmdir()  # it is empty
    part.rename(target)
    return output


def finish_output(output: Output) -> None:
    """Note that nothing is left to do."""
    group = scale_package("zarr").open_group(output.path / PROGRESS, mode="r+")
    group.attrs["complete"] = True


def write_file(path: Path, content: bytes) -> None:
    """Write a small file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
