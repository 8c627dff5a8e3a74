"""Affinities: the edges of a grid of voxels, and what labels say about them.

An affinity is a number in [0, 1] on the edge between two voxels: 1 where both belong to one
object, 0 where they do not. Channel ``c`` of an affinity volume holds, at voxel ``v``, the edge
between ``v`` and ``v + offsets[c]``. With the default offsets, one negative unit step per axis,
every voxel owns the edges to its predecessors; the voxels of the first row own edges that leave the
volume, and those do not exist.

Everything here is slicing: an offset turns into two views of one volume, shifted against each
other, so no table of edges is needed to compare the two ends of every edge of a channel.
"""

from collections.abc import Sequence

import numpy as np
import torch

from malis._checks import (
    Array,
    Offsets,
    check_labels,
    check_offsets,
    clear_outside,
    comparable,
)


def nearest_offsets(ndim: int) -> tuple[tuple[int, ...], ...]:
    """Return the negative unit steps, the usual nearest neighbourhood of the field.

    Parameters
    ----------
    ndim : int
        Number of spatial axes.

    Returns
    -------
    tuple of tuples
        Shape (ndim, ndim); ``((-1, 0), (0, -1))`` in 2D.

    Raises
    ------
    ValueError
        If `ndim` is below 1.
    """
    if ndim < 1:
        raise ValueError(f"ndim must be at least 1, got {ndim}")
    return tuple(tuple(-int(axis == row) for axis in range(ndim)) for row in range(ndim))


def edge_slices(
    shape: Sequence[int], offset: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the two views of a volume that hold the ends of every edge of one offset.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape of the volume.
    offset : sequence of int
        One step per axis, of any sign and length.

    Returns
    -------
    sources, targets : tuples of slice
        ``volume[sources]`` are the voxels ``v`` that own an edge, ``volume[targets]`` the voxels
        ``v + offset``; both empty where the offset is longer than the volume.
    """
    steps = [(int(step), int(size)) for step, size in zip(offset, shape, strict=True)]
    sources = tuple(slice(max(0, -d), max(max(0, -d), min(n, n - d))) for d, n in steps)
    targets = tuple(slice(max(0, d), max(max(0, d), min(n, n + d))) for d, n in steps)
    return sources, targets


def affinities_from_labels(labels: Array, offsets: Offsets) -> Array:
    """Turn labels into affinities: 1 where both ends of an edge carry the same object.

    Parameters
    ----------
    labels : (*spatial) or (B, *spatial) integer array or tensor
        Object ids, 0 = background; any integer type.
    offsets : (C, ndim) integers
        ``ndim`` tells the spatial axes from the batch axis.

    Returns
    -------
    (C, *spatial) or (B, C, *spatial) array or tensor
        uint8 from an array, float32 from a tensor (on its device). 0 on edges that touch background
        or leave the volume.

    Raises
    ------
    ValueError
        If `labels` has neither ndim nor ndim + 1 axes, or one is negative.
    TypeError
        If `labels` are not integers.

    Examples
    --------
    >>> affinities_from_labels(np.array([[1, 1, 2], [0, 0, 2]]), nearest_offsets(2))[1]
    array([[0, 1, 0],
           [0, 0, 0]], dtype=uint8)
    """
    offsets = check_offsets(offsets)
    ndim = offsets.shape[1]
    if labels.ndim not in (ndim, ndim + 1):
        raise ValueError(
            f"labels must have {ndim} spatial axes like the offsets (and perhaps a batch axis), "
            f"got shape {tuple(labels.shape)}"
        )
    check_labels(labels, labels.shape)
    same = same_object(labels, offsets)
    return as_numbers(same) if isinstance(same, torch.Tensor) else same.view(np.uint8)


def same_object(labels: Array, offsets: np.ndarray) -> Array:
    """Mark the edges whose two ends carry the same object, which is not 0.

    Labels are ([B,] *spatial), the result is ([B,] C, *spatial) booleans: False on edges that touch
    background or leave the volume.
    """
    n_channels, ndim = offsets.shape
    spatial = labels.shape[labels.ndim - ndim :]
    shape = (*labels.shape[: labels.ndim - ndim], n_channels, *spatial)
    if isinstance(labels, torch.Tensor):
        labels = labels if labels.dtype == torch.bool else comparable(labels)
        same = torch.zeros(shape, dtype=torch.bool, device=labels.device)
        foreground, both = labels.bool(), torch.logical_and
    else:
        same = np.zeros(shape, dtype=bool)
        foreground, both = labels.astype(bool), np.logical_and
    for channel, offset in enumerate(offsets):
        sources, targets = ((..., *ends) for ends in edge_slices(spatial, offset))
        alike = labels[sources] == labels[targets]
        both(alike, foreground[sources], out=same[(..., channel, *sources[1:])])
    return same


def as_numbers(marks: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return booleans as 0 and 1; on a CPU, torch converts bytes six times as fast as booleans."""
    return marks.view(torch.uint8).to(dtype)


def existing_edges(shape: Sequence[int], offsets: Offsets) -> np.ndarray:
    """Mark the edges whose two ends lie within the volume.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape of the volume.
    offsets : (C, ndim) integers

    Returns
    -------
    (C, *spatial) bool array

    Raises
    ------
    ValueError
        If the shape does not have as many axes as the offsets.
    """
    offsets = check_offsets(offsets)
    if len(shape) != offsets.shape[1]:
        raise ValueError(
            f"shape must have {offsets.shape[1]} spatial axes like the offsets and no batch axis, "
            f"got {tuple(shape)}"
        )
    return clear_outside(np.ones((len(offsets), *shape), dtype=bool), offsets)


def count_edges(shape: Sequence[int], offsets: np.ndarray) -> np.ndarray:
    """Count the edges of every channel that exist in a volume: (C,) int64."""
    return np.maximum(np.array(shape) - np.abs(offsets), 0).prod(axis=1)


def grid_edges(shape: Sequence[int], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the ends of every existing edge: channel by channel, in C order within a channel.

    This order numbers the edges; `gather_edges` and `scatter_edges` move values between it and the
    (C, *spatial) form.

    Returns
    -------
    sources, targets : (E,) int64 arrays
        Flat C-order voxel indices of ``v`` and ``v + offsets[c]``.
    """
    voxels = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    ends = [edge_slices(shape, offset) for offset in offsets]
    sources = np.concatenate([voxels[source].ravel() for source, _ in ends])
    targets = np.concatenate([voxels[target].ravel() for _, target in ends])
    return sources, targets


def gather_edges(volume: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Read one value per existing edge, in their order in `grid_edges`, from (C, *spatial)."""
    shape = volume.shape[1:]
    return np.concatenate(
        [volume[c][edge_slices(shape, offset)[0]].ravel() for c, offset in enumerate(offsets)]
    )


def scatter_edges(values: np.ndarray, shape: Sequence[int], offsets: np.ndarray) -> np.ndarray:
    """Write one value per existing edge, in their order in `grid_edges`, into (C, *spatial).

    0 where no edge exists.
    """
    volume = np.zeros((len(offsets), *shape), dtype=values.dtype)
    start = 0
    for channel, offset in enumerate(offsets):
        view = volume[channel][edge_slices(shape, offset)[0]]
        view[...] = values[start : start + view.size].reshape(view.shape)
        start += view.size
    return volume


def locate_edges(edges: np.ndarray, shape: Sequence[int], offsets: np.ndarray) -> np.ndarray:
    """Turn edge numbers, positions in the order of `grid_edges`, into channel and voxel.

    The result is (P, 1 + ndim) int64: channel and coordinates of the voxel that owns each edge.
    """
    views = [edge_slices(shape, offset)[0] for offset in offsets]
    first = np.concatenate([[0], np.cumsum(count_edges(shape, offsets))])
    channels = np.searchsorted(first, edges, side="right") - 1
    located = np.empty((len(edges), 1 + len(shape)), dtype=np.int64)
    located[:, 0] = channels
    for channel in np.unique(channels):
        own, view = channels == channel, views[channel]
        size = [axis.stop - axis.start for axis in view]
        within = np.unravel_index(edges[own] - first[channel], size)
        located[own, 1:] = np.stack(within, axis=1) + [axis.start for axis in view]
    return located
