"""Sections that were segmented one by one, put together into neurons.

A network that predicts in 2D knows nothing of the third axis. In thin sections a neuron covers
much of the area that it covers in the section before; regions are linked where they do.

What one section shows apart stays apart: an object has at most one region in every section, so
that one wrong link joins two objects and not all of them. The price is that where a neuron
branches, one branch goes on and the other begins a new object.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import sparse

from malis._checks import Array, as_numpy
from malis.segmentation.numbering import compact, in_kind, joined


def link_sections(
    labels: Array, *, affinities: Array | None = None, threshold: float = 0.2
) -> Array:
    """Link the regions of neighbouring sections to 3D objects.

    Two regions A and B of neighbouring sections share ``|A and B| / |A or B|`` of their area. They
    may be linked if that reaches the threshold and neither A overlaps another region as much, or B
    does not. Every region is linked to at most one region of each neighbouring section: where
    several may be, the largest share comes first, and of equal ones the smaller label. With
    affinities along the first axis, every voxel of the overlap counts as much as its affinity.

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
    objects = np.empty(tuple(labels.shape), np.uint64)
    for z, section in enumerate(linked(labels, affinities=affinities, threshold=threshold)):
        objects[z] = section
    return in_kind(objects, labels)


def linked(
    sections: Iterable[Array],
    *,
    affinities: Array | None = None,
    threshold: float = 0.2,
) -> Iterator[np.ndarray]:
    """Do what `link_sections` does with (y, x) sections that come and go one by one."""
    n_objects = 0
    before = object_before = None
    for z, section in enumerate(sections):
        numbers, ids = compact(section)
        object_of = np.zeros(len(ids) + 1, np.uint64)
        if before is not None:
            weights = None if affinities is None else as_numpy(affinities[z])
            below, above = _links_between(before, numbers, weights, threshold)
            object_of[above] = object_before[below]
        new = np.flatnonzero(object_of[1:] == 0) + 1
        object_of[new] = np.arange(n_objects + 1, n_objects + 1 + len(new), dtype=np.uint64)
        n_objects += len(new)
        yield object_of[numbers]
        before, object_before = numbers, object_of


def link_regions(
    area: np.ndarray,
    pairs: Sequence[np.ndarray],
    overlap: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    threshold: float = 0.2,
) -> np.ndarray:
    """Link regions of which only areas and overlaps are known; see `link_sections`.

    `area` holds the voxels of every region 1 ... N, region 0 being none; `pairs` P regions of one
    section and P above them in the next, `overlap` the voxels that the two of a pair share, and
    `weights` what these count for. Return the object of every region; 0 stays 0.
    """
    return joined(len(area), *_choose_links(area, tuple(pairs), overlap, weights, threshold))


def _links_between(
    below: np.ndarray, above: np.ndarray, weights: np.ndarray | None, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the links between two sections whose regions are numbered 1, 2, ... in each."""
    n_below = int(below.max(initial=0))
    area = np.append(np.bincount(below.ravel(), minlength=1), np.bincount(above.ravel())[1:])
    both = (below > 0) & (above > 0)
    pairs = below[both], above[both] + n_below
    weights = None if weights is None else weights[both]
    one, other = _choose_links(area, pairs, np.ones(len(pairs[0])), weights, threshold)
    return one, other - n_below


def _choose_links(
    area: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    overlap: np.ndarray,
    weights: np.ndarray | None,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose links, at most one from a region to each side; see `link_regions`."""
    n = len(area)
    both = sparse.coo_array((overlap, pairs), (n, n)).tocsr().tocoo()
    shared = both.data
    if weights is not None:
        shared = sparse.coo_array((weights.astype(np.float64), pairs), (n, n)).tocsr().tocoo().data
    score = shared / (area[both.row] + area[both.col] - both.data)
    most_above, most_below = np.zeros(n), np.zeros(n)
    np.maximum.at(most_above, both.row, shared)
    np.maximum.at(most_below, both.col, shared)
    best = (shared >= most_above[both.row]) | (shared >= most_below[both.col])
    candidates = np.flatnonzero(best & (score >= threshold))
    candidates = candidates[np.argsort(-score[candidates], kind="stable")]
    is_below, is_above = bytearray(n), bytearray(n)  # of a link that is chosen
    chosen = []
    ends = both.row[candidates].tolist(), both.col[candidates].tolist()
    for candidate, one, other in zip(candidates, *ends, strict=True):
        if not is_below[one] and not is_above[other]:
            is_below[one] = is_above[other] = True
            chosen.append(candidate)
    chosen = np.array(chosen, np.intp)
    return both.row[chosen], both.col[chosen]
