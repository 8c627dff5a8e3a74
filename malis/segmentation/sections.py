"""Sections that were segmented one by one, put together into neurons.

A network that predicts in 2D knows nothing of the third axis. In thin sections a neuron covers
much of the area that it covers in the section before; regions are linked where they do.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from malis._checks import Array, as_numpy
from malis.segmentation.numbering import compact, in_kind


def link_sections(
    labels: Array, *, affinities: Array | None = None, threshold: float = 0.2
) -> Array:
    """Link the regions of neighbouring sections to 3D objects.

    Two regions A and B of neighbouring sections share ``|A and B| / |A or B|`` of their area. They
    are linked if that reaches the threshold and neither A overlaps another region as much, or B
    does not: one best match of the two is enough, so that neurons can branch. With affinities along
    the first axis, every voxel of the overlap counts as much as its affinity.

    Parameters
    ----------
    labels : (z, y, x) integer array or tensor
        A segmentation of each section; 0 = no region. A label means another region in every
        section.
    affinities : (z, y, x) float array or tensor, optional
        Affinities of the edges from every voxel to the one before it along z (offset (-1, 0, 0));
        those of the first section are not used.
    threshold : float
        In [0, 1]. The higher, the fewer links.

    Returns
    -------
    (z, y, x) uint64 array or int64 tensor
        Objects 1, 2, ...; 0 stays 0.

    Raises
    ------
    ValueError
        If `labels` are no stack of sections, hold a negative label, or shapes disagree.
    TypeError
        If the labels are no integers.
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must be sections (z, y, x), got shape {tuple(labels.shape)}")
    if affinities is not None and tuple(affinities.shape) != tuple(labels.shape):
        raise ValueError(
            f"affinities must have shape {tuple(labels.shape)} like the labels, "
            f"got {tuple(affinities.shape)}"
        )
    regions = _number_by_section(labels)
    n = int(regions.max(initial=0)) + 1
    below, above = regions[:-1].ravel(), regions[1:].ravel()
    both = (below > 0) & (above > 0)
    pairs = below[both], above[both]
    weights = None if affinities is None else as_numpy(affinities)[1:].ravel()[both]
    area = np.bincount(regions.ravel(), minlength=n)
    ones = np.ones(len(pairs[0]))
    component = link_regions(area, pairs, ones, weights=weights, threshold=threshold)
    return in_kind(component[regions], labels)


def link_regions(
    area: np.ndarray,
    pairs: Sequence[np.ndarray],
    overlap: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    threshold: float = 0.2,
) -> np.ndarray:
    """Link regions of which only areas and overlaps are known; see `link_sections`.

    Parameters
    ----------
    area : (N + 1,) array
        Voxels of every region 1 ... N; region 0 is none.
    pairs : two (P,) integer arrays
        Regions of one section and regions above them in the next; a pair may come several times.
    overlap : (P,) array
        Voxels that the two share.
    weights : (P,) array, optional
        What they count for; by default as many as they are.
    threshold : float
        In [0, 1].

    Returns
    -------
    (N + 1,) int32 array
        The object of every region; 0 stays 0.
    """
    n, pairs = len(area), tuple(pairs)
    both = sparse.coo_array((overlap, pairs), (n, n)).tocsr().tocoo()
    shared = both.data
    if weights is not None:
        shared = sparse.coo_array((weights.astype(np.float64), pairs), (n, n)).tocsr().tocoo().data
    score = shared / (area[both.row] + area[both.col] - both.data)
    most_above, most_below = np.zeros(n), np.zeros(n)
    np.maximum.at(most_above, both.row, shared)
    np.maximum.at(most_below, both.col, shared)
    best = (shared >= most_above[both.row]) | (shared >= most_below[both.col])
    linked = best & (score >= threshold)
    links = sparse.coo_array(
        (np.ones(linked.sum(), bool), (both.row[linked], both.col[linked])), (n, n)
    )
    return sparse.csgraph.connected_components(links, directed=False)[1]


def _number_by_section(labels: Array) -> np.ndarray:
    """Give every region of every section a number of its own."""
    numbers = np.zeros(tuple(labels.shape), dtype=np.int32)
    total = 0
    for z, section in enumerate(labels):
        number, ids = compact(section)
        numbers[z] = np.where(number > 0, number + total, 0)
        total += len(ids)
    return numbers
