"""Threshold and watershed: the segmentation of the first implementations.

One weak pixel in a membrane is enough to merge what lies on its two sides. It stays as the baseline
that agglomeration is measured against.
"""

import higra as hg
import numpy as np

from malis._checks import Array, Offsets
from malis.segmentation.grid import as_affinities, edges_of_all_axes, mean_of_neighbours
from malis.segmentation.numbering import in_kind


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
    ValueError
        If shapes disagree, the volume is empty, an affinity is not a number in [0, 1] or an axis
        has no channel of unit steps.
    TypeError
        If affinities are no floats or offsets no integers.

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
