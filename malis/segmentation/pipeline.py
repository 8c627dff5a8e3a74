"""Affinities to labels in one call."""

import numpy as np

from malis._checks import Array, Offsets, check_offsets
from malis.segmentation.agglomeration import agglomerate
from malis.segmentation.components import connected_components
from malis.segmentation.numbering import remove_small
from malis.segmentation.oversegmentation import fragments, inside_threshold
from malis.segmentation.sections import link_sections
from malis.segmentation.threshold_watershed import threshold_watershed

METHODS = ("agglomerate", "threshold_watershed", "connected_components")
THICK = 3.0  # sections this many times thicker than a pixel is wide are segmented one by one


def segment(
    affinities: Array,
    offsets: Offsets,
    *,
    method: str = "agglomerate",
    threshold: float = 0.5,
    sampling: tuple[float, ...] | None = None,
    min_size: int = 0,
) -> Array:
    """Turn affinities into labels.

    Volumes whose sections are at least three times thicker than a pixel is wide, by `sampling`, are
    cut into fragments section by section. Volumes without a channel of unit steps along z (from a
    network that predicts in 2D) are segmented section by section and then linked.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
    method : {"agglomerate", "threshold_watershed", "connected_components"}
        "agglomerate": fragments, merged while the mean affinity between them is at least the
        threshold. The others are baselines.
    threshold : float
        An affinity; `best_threshold` finds a good one where truth is known.
    sampling : tuple of float, optional
        Size of a voxel along every axis, in any unit.
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
        is unknown, or the sampling has not as many numbers as there are axes.
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
    steps = check_offsets(offsets)
    if sampling is not None and len(sampling) != steps.shape[1]:
        raise ValueError(
            f"sampling must be {steps.shape[1]} positive numbers, one for each axis, got {sampling}"
        )
    flat, thick = are_sections_apart(affinities.shape[1:], steps, sampling)
    if method == "connected_components":
        labels = connected_components(affinities, offsets, threshold)
    elif method == "threshold_watershed":
        labels = threshold_watershed(affinities, offsets, threshold, per_section=flat)
    else:
        apart = flat or thick
        inside = inside_threshold(affinities, offsets, per_section=apart)
        pieces = fragments(
            affinities, offsets, threshold=inside, sampling=sampling, per_section=apart
        )
        labels = agglomerate(affinities, offsets, pieces).cut(threshold)
    if flat:
        labels = link_sections(labels)
    return remove_small(labels, min_size) if min_size > 1 else labels


def are_sections_apart(
    shape: tuple[int, ...], offsets: np.ndarray, sampling: tuple[float, ...] | None
) -> tuple[bool, bool]:
    """Tell whether sections are cut into fragments one by one.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape.
    offsets : (C, ndim) int64 array
    sampling : tuple of float, optional
        Size of a voxel along every axis.

    Returns
    -------
    flat : bool
        They are, because no channel of unit steps joins them; then they have to be linked.
    thick : bool
        They are, because they are much thicker than a pixel is wide.
    """
    in_volume = offsets.shape[1] == 3 and len(shape) == 3
    flat = in_volume and shape[0] > 1 and not _has_unit_step(offsets, axis=0)
    thick = in_volume and sampling is not None and sampling[0] >= THICK * min(sampling[1:])
    return flat, thick


def _has_unit_step(offsets: np.ndarray, axis: int) -> bool:
    return bool(((np.abs(offsets).sum(axis=1) == 1) & (offsets[:, axis] != 0)).any())
