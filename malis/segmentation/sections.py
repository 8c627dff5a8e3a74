"""Sections that were segmented one by one, put together into neurons.

A network that predicts in 2D knows nothing of the third axis. In thin sections a neuron covers
much of the area that it covers in the section before; regions are linked where they do.
"""

import numpy as np
from scipy import sparse

from malis.checks import Array, as_numpy
from malis.segmentation.labels import compact, in_kind


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
    overlap = sparse.coo_array((np.ones(len(pairs[0])), pairs), (n, n)).tocsr().tocoo()
    if affinities is None:
        shared = overlap.data
    else:
        weights = as_numpy(affinities)[1:].ravel()[both].astype(np.float64)
        shared = sparse.coo_array((weights, pairs), (n, n)).tocsr().tocoo().data
    area = np.bincount(regions.ravel(), minlength=n)
    score = shared / (area[overlap.row] + area[overlap.col] - overlap.data)
    most_above, most_below = np.zeros(n), np.zeros(n)
    np.maximum.at(most_above, overlap.row, shared)
    np.maximum.at(most_below, overlap.col, shared)
    best = (shared >= most_above[overlap.row]) | (shared >= most_below[overlap.col])
    linked = best & (score >= threshold)
    links = sparse.coo_array(
        (np.ones(linked.sum(), bool), (overlap.row[linked], overlap.col[linked])), (n, n)
    )
    _, component = sparse.csgraph.connected_components(links, directed=False)
    return in_kind(component[regions], labels)


def _number_by_section(labels: Array) -> np.ndarray:
    """Give every region of every section a number of its own."""
    numbers = np.zeros(tuple(labels.shape), dtype=np.int32)
    total = 0
    for z, section in enumerate(labels):
        number, ids = compact(section)
        numbers[z] = np.where(number > 0, number + total, 0)
        total += len(ids)
    return numbers
