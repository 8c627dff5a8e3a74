"""Test-time augmentation: the mean of what a network says about a volume seen from all sides.

Tissue has no preferred direction within a section, but a network that was trained on a handful of
sections has: shown the mirror image, it errs elsewhere. Errors that come and go with the view
cancel in a mean; membranes that are there in every view stay. Nothing is trained for this, it
only costs time.

Affinities do not turn like pictures do. In a mirror, the edge from a voxel to its left neighbour is
the edge to its right one, which that neighbour keeps; and where rows become columns, the channels
change places.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from malis._checks import Offsets, check_offsets
from malis.affinity import edge_slices
from malis.inference.neighbours import SectionStack, stack_neighbours
from malis.inference.own_unet import FullyConvolutional
from malis.inference.tiles import predict


@dataclass(frozen=True)
class View:
    """A way to look at a volume."""

    flipped: tuple[int, ...]  # axes that run backwards, counted from the last one, which is -1
    transposed: bool  # whether y and x are exchanged, before anything is flipped

    def of(self, array: np.ndarray) -> np.ndarray:
        """Show an array whose last axes are spatial; it is not copied."""
        array = array.swapaxes(-2, -1) if self.transposed else array
        return np.flip(array, self.flipped)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Turn what `of` has made back."""
        array = np.flip(array, self.flipped)
        return array.swapaxes(-2, -1) if self.transposed else array

    def turned(self, offset: np.ndarray) -> np.ndarray:
        """Return the step that an offset of the volume is in the view."""
        offset = offset.copy()
        if self.transposed:
            offset[[-2, -1]] = offset[[-1, -2]]
        offset[list(self.flipped)] *= -1
        return offset

    def restored(self, affinities: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Give the (C, ..., *spatial) affinities of a view back to the edges of the volume.

        View and volume have the same (C, ndim) offsets; a ValueError if an edge of the volume has
        no channel in the view. On edges that leave the volume the result is 0.
        """
        ndim = offsets.shape[1]
        spatial = self.undo(affinities).shape[-ndim:]
        result = np.zeros(affinities.shape[:-ndim] + spatial, affinities.dtype)
        rows = [tuple(row) for row in offsets.tolist()]
        for channel, offset in enumerate(offsets):
            step = self.turned(offset)
            owners, others = edge_slices(affinities.shape[-ndim:], step)
            if tuple(step.tolist()) in rows:
                seen, kept = rows.index(tuple(step.tolist())), owners
            elif tuple((-step).tolist()) in rows:  # the same edges, kept at their other end
                seen, kept = rows.index(tuple((-step).tolist())), others
            else:
                raise ValueError(
                    f"offset {offset.tolist()} becomes {step.tolist()} in a view that is flipped "
                    f"along axes {self.flipped}{' and transposed' * self.transposed}; neither that "
                    "nor its opposite is among the offsets"
                )
            moved = np.zeros_like(affinities[seen])
            moved[(..., *owners)] = affinities[(seen, ..., *kept)]
            result[channel] = self.undo(moved)
        return result


def all_views(ndim: int) -> Iterator[View]:
    """List the flips of all axes, with and without exchange of y and x: 8 in 2D, 16 in 3D.

    The first one is the volume as it is.
    """
    for transposed in (False, True):
        for reverse in itertools.product((False, True), repeat=ndim):
            yield View(tuple(axis - ndim for axis in range(ndim) if reverse[axis]), transposed)


def predict_views(
    net: FullyConvolutional,
    volume: Any,
    offsets: Offsets,
    *,
    progress: bool = True,
    **settings: Any,
) -> np.ndarray:
    """Predict all views of a volume, and average: 8 times the work of `predict` in 2D, 16 in 3D.

    Parameters
    ----------
    net : FullyConvolutional
        See `malis.inference.predict`.
    volume : (z, y, x) or, for a 2D network, (y, x) array of unsigned integers or floats
        It has to fit into memory. Several input channels form the first axis: neighbouring
        sections, see `malis.inference.neighbours`, whose order turns with the volume.
    offsets : (C, 2) or (C, 3) integers
        Of the affinities; they tell where an edge goes when the volume is turned. What is seen from
        all sides has as many axes as they: a 2D network may predict affinities in 3D.
    progress : bool
        Show a progress bar.
    **settings
        Other arguments of `malis.inference.predict`, but for ``out``.

    Returns
    -------
    (C, *spatial) float32 array
        The mean, with ``activation=None`` of the logits; 0 on edges that leave the volume.

    Raises
    ------
    TypeError
        If ``out`` is given, or as `predict` does.
    ValueError
        If the offsets do not fit the network, or some edge has no channel in a view, as a lone
        offset (-2, 3) would; or as `predict` does.

    References
    ----------
    Ronneberger et al., MICCAI 2015, section 4, averages rotated versions on the same kind of data.
    """
    if "out" in settings:
        raise TypeError("predict_views keeps the sum of all views in memory and takes no out")
    offsets = check_offsets(offsets)
    if len(offsets) != net.out_channels or not net.ndim <= offsets.shape[1] <= 3:
        raise ValueError(
            f"the network predicts {net.out_channels} affinities with {net.ndim} axes or more, "
            f"got offsets of shape {offsets.shape}"
        )
    if isinstance(volume, SectionStack):  # is turned first, then stacked
        neighbours, volume = volume.neighbours, volume.volume
    else:
        neighbours = 0
    volume = volume.numpy(force=True) if isinstance(volume, Tensor) else np.asarray(volume[...])
    views = list(all_views(offsets.shape[1]))
    total: Any = 0
    for view in tqdm(views, desc="predict", unit="view", disable=not progress):
        seen = stack_neighbours(view.of(volume), neighbours)
        if net.ndim == 2 and volume.ndim == 4 and -3 in view.flipped:
            seen = seen[::-1]  # the section behind is the one before
        affinities = predict(net, seen, progress=False, **settings)
        total = total + view.restored(affinities, offsets)
    return total / np.float32(len(views))
