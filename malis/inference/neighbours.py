"""Neighbouring sections as channels: what a 2D network sees of the third axis.

Where a membrane runs obliquely through a section it is a grey smear, and one section does not tell
on which side of it a pixel lies. The sections above and below do: there the same membrane lies a
little to the left, and a little to the right. A 2D network that gets them as further channels
still predicts one section, at the price of a 2D network; all it needs is a wider first layer.

This helps where sections are thin beside what they show, as in isotropic volumes. In serial
sections that are ten times thicker than a pixel is wide, neighbours show other profiles.

Such a network may also predict affinities in 3D: a third one says whether a voxel belongs to one
object with the voxel of the section before. It is trained on slabs, sections that follow each
other. They go through the network as a batch (`as_sections`), and its output is put together again
(`as_slabs`), so that a loss sees a graph in 3D.
"""

from typing import Any

import numpy as np
from torch import Tensor

from malis.inference.own_unet import FullyConvolutional
from malis.inference.tiles import mirror


def neighbours_of(net: FullyConvolutional) -> int:
    """Tell how many sections on each side a network sees besides the one that it predicts.

    0 for a network with one input channel, k for a 2D network with 2k + 1 of them. A ValueError if
    the number of channels is even, or a 3D network has several.
    """
    if net.in_channels == 1:
        return 0
    if net.ndim != 2 or net.in_channels % 2 == 0:
        raise ValueError(
            "a network for grey values has one input channel or, in 2D, an odd number of "
            f"neighbouring sections; this {net.ndim}D network has {net.in_channels} channels"
        )
    return net.in_channels // 2


def as_sections(slabs: Tensor, neighbours: int) -> Tensor:
    """Take slabs apart into sections, each with its neighbours as channels.

    Parameters
    ----------
    slabs : (B, 1, D + 2 neighbours, y, x) tensor
        With the neighbours of the first and of the last section.
    neighbours : int
        Sections on each side that a network sees.

    Returns
    -------
    (B D, 2 neighbours + 1, y, x) tensor
        All sections of the first slab, then those of the second one, and so on.

    Raises
    ------
    ValueError
        If slabs are of another shape, or hold nothing but neighbours.
    """
    if slabs.ndim != 5 or slabs.shape[1] != 1 or slabs.shape[2] <= 2 * neighbours:
        raise ValueError(
            f"slabs with {neighbours} neighbours on each side must have shape (B, 1, z, y, x) with "
            f"more than {2 * neighbours} sections, got {tuple(slabs.shape)}"
        )
    windows = slabs[:, 0].unfold(1, 2 * neighbours + 1, 1)  # (B, D, y, x, 2 neighbours + 1)
    return windows.movedim(-1, 2).flatten(0, 1)


def as_slabs(sections: Tensor, count: int) -> Tensor:
    """Put what a network predicts for sections together again.

    (B D, C, y, x) in the order of `as_sections` become (B, C, D, y, x); `count` is B.
    """
    return sections.unflatten(0, (count, -1)).movedim(1, 2)


def stack_neighbours(volume: Any, neighbours: int) -> Any:
    """Show every section of a volume together with its neighbours.

    Parameters
    ----------
    volume : (z, y, x) array, dataset or tensor
        Read only where the result is read.
    neighbours : int
        Sections on each side. Beyond the first and the last section, the volume is continued by
        its mirror image.

    Returns
    -------
    SectionStack of shape (2 neighbours + 1, z, y, x), or ``volume`` for 0 neighbours
        For `malis.inference.predict` and `malis.inference.views.predict_views`; ``[...]`` makes an
        array.

    Raises
    ------
    ValueError
        If the volume has not three axes or the number is negative.

    Examples
    --------
    >>> volume = np.arange(4).reshape(4, 1, 1)
    >>> stack_neighbours(volume, 1)[...].reshape(3, 4)  # the section above, itself, that below
    array([[1, 0, 1, 2],
           [0, 1, 2, 3],
           [1, 2, 3, 2]])
    """
    if neighbours < 0:
        raise ValueError(f"neighbours must not be negative, got {neighbours}")
    if neighbours == 0:
        return volume
    if len(volume.shape) != 3:
        raise ValueError(f"sections with neighbours need (z, y, x), got shape {volume.shape}")
    return SectionStack(
        volume.numpy(force=True) if isinstance(volume, Tensor) else volume, neighbours
    )


class SectionStack:
    """A (z, y, x) volume whose channels are neighbouring sections, read from it piece by piece."""

    def __init__(self, volume: Any, neighbours: int) -> None:
        self.volume = volume
        self.neighbours = neighbours
        self.shape = (2 * neighbours + 1, *volume.shape)
        self.dtype = volume.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read ``[...]``, or ``[channel, section, y, x]`` with numbers or slices."""
        index = (slice(None),) * 4 if index is Ellipsis else index
        channel, section, *box = index
        shifts = np.arange(-self.neighbours, self.neighbours + 1)[channel]
        sections = np.arange(self.shape[1])[section]
        needed = mirror(np.add.outer(shifts, sections), self.shape[1])
        first, stop = needed.min(), needed.max() + 1
        return self.volume[(slice(first, stop), *box)][needed - first]
