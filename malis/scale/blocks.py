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
        """Name of files about this block, for instance "0_3_1"."""
        return "_".join(map(str, self.place))

    def __str__(self) -> str:
        return "block [" + ", ".join(f"{side.start}:{side.stop}" for side in self.box) + "]"


def cut_into_blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> list[Block]:
    """Cut a volume into blocks; the last ones along each axis may be smaller.

    Parameters
    ----------
    shape : (3,) tuple of int
        Size of the volume.
    block : (3,) tuple of int
        Size of a block.

    Returns
    -------
    list of Block
        In C order.
    """
    numbers = [range(-(-n // b)) for n, b in zip(shape, block, strict=True)]
    return [Block(place, box_of(place, shape, block)) for place in itertools.product(*numbers)]


def box_of(place: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, ...]) -> Box:
    """Return the voxels of the block at a place, cut off at the end of the volume."""
    return tuple(
        slice(i * b, min((i + 1) * b, n)) for i, n, b in zip(place, shape, block, strict=True)
    )


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


def size_of(box: Box) -> tuple[int, ...]:
    """Return the shape of a box."""
    return tuple(side.stop - side.start for side in box)
