"""Affinities to labels in one call."""

from typing import Any

import numpy as np

from malis._checks import Array, Offsets, as_numpy, check_affinity_shape, check_offsets
from malis.segmentation.baselines import connected_components, threshold_watershed
from malis.segmentation.grid import within_sections
from malis.segmentation.numbering import in_kind, remove_small
from malis.segmentation.oversegmentation import inside_threshold
from malis.segmentation.recipe import are_sections_apart, hierarchy_of, sampled
from malis.segmentation.regions import check_absorb
from malis.segmentation.sections import link_sections, linked

METHODS = ("agglomerate", "threshold_watershed", "connected_components")


def segment(
    affinities: Array,
    offsets: Offsets,
    *,
    method: str = "agglomerate",
    threshold: float = 0.5,
    sampling: tuple[float, ...] | None = None,
    per_section: bool | None = None,
    inside: float | None = None,
    sections: bool = False,
    absorb: int = 0,
    min_size: int = 0,
) -> Array:
    """Turn affinities into labels.

    Volumes whose sections are at least three times thicker than a pixel is wide, by `sampling`, are
    cut into fragments section by section; affinities along z then merge them like those within the
    sections. Volumes without a channel of unit steps along z (from a network that knows nothing of
    the third axis) are segmented section by section and then linked, see `link_sections`.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c]. Also anything that has
        shape and dtype and gives arrays when it is indexed, for instance an HDF5 dataset; where
        sections are cut one by one, it is never read as a whole.
    offsets : (C, ndim) integers
    method : {"agglomerate", "threshold_watershed", "connected_components"}
        "agglomerate": fragments, merged while the mean affinity between them is at least the
        threshold. The others are baselines.
    threshold : float
        An affinity; `best_threshold` finds a good one where truth is known.
    sampling : tuple of float, optional
        Size of a voxel along every axis, in any unit.
    per_section : bool, optional
        Whether fragments lie within sections, however thick these are.
    inside : float, optional
        Average affinity above which a voxel lies inside an object; by default what
        `inside_threshold` finds.
    sections : bool
        Segment every section of a volume on its own: nothing joins or links two of them, and a
        label lies in one section. For data that are labelled one section at a time.
    absorb : int
        Regions of fewer voxels join the neighbour to which their mean affinity is highest; where
        sections are segmented one by one, within their section. Only for method "agglomerate".
    min_size : int
        Objects with fewer voxels are set to 0.

    Returns
    -------
    (*spatial) uint64 array or int64 tensor
        Objects 1, 2, ...; 0 = none.

    Raises
    ------
    ValueError
        If shapes disagree, the volume is empty, an affinity is not a number in [0, 1], the method
        is unknown or cannot absorb, absorb is negative, the sampling has not as many numbers as
        there are axes, or sections are asked for where there are none.
    TypeError
        If affinities are no floats or offsets no integers.

    Examples
    --------
    >>> affinities = np.full((1, 6), 0.9, dtype=np.float32)
    >>> affinities[0, 3] = 0.1  # the edge between voxels 3 and 2
    >>> segment(affinities, [(-1,)])
    array([1, 1, 1, 2, 2, 2], dtype=uint64)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    check_absorb(absorb)
    if absorb and method != "agglomerate":
        raise ValueError(f'absorb is for method "agglomerate", got {method!r}')
    steps = check_offsets(offsets)
    check_affinity_shape(affinities.shape, steps, batched=False)
    if sections and steps.shape[1] != 3:
        raise ValueError(f"sections needs a volume (z, y, x), got {tuple(affinities.shape[1:])}")
    shape = tuple(affinities.shape[1:])
    flat, apart = are_sections_apart(shape, steps, sampling, sections or per_section)
    if sections or (flat and method != "connected_components"):
        if method == "agglomerate" and inside is None:
            inside = inside_threshold(*sampled([affinities], steps, per_section=True))
        labels = _section_by_section(
            affinities,
            steps,
            link=not sections,
            method=method,
            threshold=threshold,
            sampling=None if sampling is None else tuple(sampling[1:]),
            inside=inside,
            absorb=absorb,
        )
    elif method == "agglomerate":
        settings = {"sampling": sampling, "per_section": apart, "inside": inside}
        labels = hierarchy_of(affinities, steps, **settings).cut(threshold, absorb)
    elif method == "threshold_watershed":
        labels = threshold_watershed(affinities, steps, threshold)
    else:
        labels = connected_components(affinities, steps, threshold)
        labels = link_sections(labels) if flat else labels
    return remove_small(labels, min_size) if min_size > 1 else labels


def _section_by_section(
    affinities: Array, offsets: np.ndarray, *, link: bool, **settings: Any
) -> Array:
    """Segment every section like a picture, and link the regions or leave them as they are."""
    channels, flat = within_sections(offsets)
    shape = tuple(affinities.shape[1:])
    pictures = (segment(affinities[:, z][channels], flat, **settings) for z in range(shape[0]))
    labels, total = np.empty(shape, np.uint64), 0
    for z, section in enumerate(linked(pictures) if link else map(as_numpy, pictures)):
        labels[z] = section
        if not link:
            labels[z][section > 0] += np.uint64(total)
            total += int(section.max())
    return in_kind(labels, affinities)
