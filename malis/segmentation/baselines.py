"""The segmentations that agglomeration is measured against: one weak pixel leaks in both.

Connected components at a threshold are the segmentation that maximin affinities define, and what
MALIS is about. Threshold and watershed is what the first implementations did.
"""

import higra as hg
import numpy as np

from malis._checks import Array, Offsets
from malis.segmentation.grid import (
    Edges,
    all_edges,
    as_affinities,
    edges_of_all_axes,
    mean_of_neighbours,
)
from malis.segmentation.numbering import in_kind, joined


def connected_components(affinities: Array, offsets: Offsets, threshold: float) -> Array:
    """Join the ends of every edge whose affinity reaches a threshold.

    Two voxels get one label exactly when their maximin affinity is at least the threshold.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
        All channels are used, long ones too.
    threshold : float
        Edges with at least this affinity are kept.

    Returns
    -------
    (*spatial) uint64 array or int64 tensor
        Components 1, 2, ...; single voxels are components, too (see `remove_small`).

    Raises
    ------
    ValueError, TypeError
        If the affinities do not fit the offsets, see `segment`.

    References
    ----------
    Turaga et al., NIPS 2009, section 2.
    """
    values, offsets = as_affinities(affinities, offsets)
    shape = values.shape[1:]
    kept = [
        (edges, values[edges.channel][edges.near] >= np.float32(threshold))
        for edges in all_edges(shape, offsets)
    ]
    # Voxels in a row along the last axis are joined first, by one sum: rows are fewer than voxels.
    begins = np.ones(shape, dtype=bool)
    for edges, joins in kept:
        if _is_along_rows(edges):
            second = max(edges.near, edges.far, key=lambda ends: ends[-1].start)
            begins[second] &= ~joins
    row = (np.cumsum(begins.ravel()) - 1).reshape(shape)
    pairs = [np.zeros((2, 0), np.int64)]
    for edges, joins in kept:
        if not _is_along_rows(edges):
            one, other = row[edges.near][joins], row[edges.far][joins]
            new = np.ones(len(one), dtype=bool)
            new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
            pairs.append(np.stack([one[new], other[new]]))
    component = joined(int(row.flat[-1]) + 1, *np.concatenate(pairs, axis=1))
    return in_kind((component + 1)[row], affinities)


def _is_along_rows(edges: Edges) -> bool:
    near, far = edges.near, edges.far
    return near[:-1] == far[:-1] and abs(near[-1].start - far[-1].start) == 1


def threshold_watershed(
    affinities: Array, offsets: Offsets, threshold: float, *, per_section: bool = False
) -> Array:
    """Average the affinities of each voxel, threshold, and fill the rest by a watershed cut.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
        Channels that are no unit steps are not used.
    threshold : float
        Voxels with at least this average affinity are flat ground; each connected piece of it is
        one region.
    per_section : bool
        Treat sections (along the first axis) one by one.

    Returns
    -------
    (*spatial) uint64 array or int64 tensor
        Regions 1, 2, ...

    Raises
    ------
    ValueError, TypeError
        See `fragments`.

    References
    ----------
    Cousty et al., Watershed cuts, IEEE TPAMI 31(8), 2009.
    """
    values, offsets = as_affinities(affinities, offsets)
    edges = edges_of_all_axes(values.shape[1:], offsets, per_section)
    average = mean_of_neighbours(values, edges)
    height = np.where(average >= np.float32(threshold), np.float32(0), 1 - average)
    voxels = np.arange(average.size).reshape(average.shape)
    graph = hg.UndirectedGraph(average.size)
    weights = [np.zeros(0, np.float32)]
    for _, near, far in edges:
        graph.add_edges(voxels[near].ravel(), voxels[far].ravel())
        weights.append(np.maximum(height[near], height[far]).ravel())
    labels = hg.labelisation_watershed(graph, np.concatenate(weights))
    return in_kind(labels.reshape(average.shape), affinities)
