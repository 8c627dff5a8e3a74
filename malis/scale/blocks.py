"""Blocks: boxes that cut a volume into parts, and what a block must read around itself."""

import itertools
from typing import NamedTuple

Box = tuple[slice, ...]


class Block(NamedTuple):
    """A part of a volume; every voxel lies in exactly one.

    Attributes
    ----------
    place : (3,) tuple of int
        Which block it is along every axis.
    box : (3,) tuple of slice
        Its voxels in the volume.
    """

    place: tuple[int, ...]
    box: Box

    @property
    def name(self) -> str:
        """Name of files about this block, "0/3/1", as Zarr names its chunks."""
        return "/".join(map(str, self.place))

    def __str__(self) -> str:
        return "block [" + ", ".join(f"{side.start}:{side.stop}" for side in self.box) + "]"


def cut_into_blocks(
    shape: tuple[int, ...], block: tuple[int, ...], box: Box | None = None
) -> list[Block]:
    """Cut a volume into blocks, in C order; the last ones along each axis may be smaller.

    With a box, only the blocks that meet it are returned.
    """
    box = box or tuple(slice(0, n) for n in shape)
    numbers = [range(s.start // b, -(-s.stop // b)) for s, b in zip(box, block, strict=True)]
    sides = [
        [slice(i * b, min((i + 1) * b, n)) for i in along]
        for along, n, b in zip(numbers, shape, block, strict=True)
    ]
    return list(map(Block, itertools.product(*numbers), itertools.product(*sides)))


def grow(box: Box, halo: tuple[int, ...], shape: tuple[int, ...]) -> Box:
    """Extend a box on both sides, but not beyond the volume."""
    return tuple(
        slice(max(0, side.start - more), min(n, side.stop + more))
        for side, more, n in zip(box, halo, shape, strict=True)
    )


def within(box: Box, outer: Box) -> Box:
    """Return where a box lies inside an array that holds the voxels of an outer box."""
    return tuple(
        slice(side.start - o.start, side.stop - o.start) for side, o in zip(box, outer, strict=True)
    )
