"""Connected components of a grid graph: the segmentation that maximin affinities define."""

import numpy as np
from scipy import sparse

from malis._checks import Array, Offsets
from malis.segmentation.grid import Edges, all_edges, as_affinities
from malis.segmentation.numbering import in_kind


def connected_components(affinities: Array, offsets: Offsets, threshold: float) -> Array:
    """Join the ends of every edge whose affinity reaches a threshold.

    Two voxels get one label exactly when their maximin affinity is at least the threshold: this is
    the segmentation that the maximin loss and MALIS are about.

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
    ValueError
        If shapes disagree, the volume is empty or an affinity is not a number in [0, 1].
    TypeError
        If affinities are no floats or offsets no integers.

    References
    ----------
    Turaga et al., NIPS 2009, section 2.
    """
    values, offsets = as_affinities(affinities, offsets)
    shape = values.shape[1:]
    edges = all_edges(shape, offsets)
    kept = [values[channel][near] >= np.float32(threshold) for channel, near, _ in edges]
    return in_kind(number_components(shape, edges, kept), affinities)


def number_components(
    shape: tuple[int, ...], edges: list[Edges], kept: list[np.ndarray]
) -> np.ndarray:
    """Find the components of the kept edges and number them.

    Voxels in a row along the last axis are joined first, which costs one sum, so that the search
    for components runs over rows instead of voxels.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape.
    edges : list of Edges
    kept : list of bool array
        For each of them, shaped like its views.

    Returns
    -------
    (*spatial) int32 array
        1, 2, ... in the order of their first voxels.
    """
    begins = np.ones(shape, dtype=bool)
    along_rows = [
        index
        for index, (_, near, far) in enumerate(edges)
        if near[:-1] == far[:-1] and abs(near[-1].start - far[-1].start) == 1
    ]
    for index in along_rows:
        _, near, far = edges[index]
        second = near if near[-1].start > far[-1].start else far
        begins[second] &= ~kept[index]
    row = (np.cumsum(begins.ravel(), dtype=np.int64) - 1).reshape(shape)
    sources, targets = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for index, (_, near, far) in enumerate(edges):
        if index in along_rows:
            continue
        one, other = row[near][kept[index]], row[far][kept[index]]
        new = np.ones(len(one), dtype=bool)
        new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
        sources.append(one[new])
        targets.append(other[new])
    n_rows = int(row[(-1,) * row.ndim]) + 1
    start, end = np.concatenate(sources), np.concatenate(targets)
    joined = sparse.coo_array((np.ones(len(start), bool), (start, end)), (n_rows, n_rows))
    _, component = sparse.csgraph.connected_components(joined, directed=False)
    return (component + 1)[row]
