"""Affinities to labels in one call."""

from malis._checks import Array, Offsets, check_offsets
from malis.segmentation.components import connected_components
from malis.segmentation.numbering import remove_small
from malis.segmentation.recipe import are_sections_apart, hierarchy_of
from malis.segmentation.sections import link_sections
from malis.segmentation.threshold_watershed import threshold_watershed

METHODS = ("agglomerate", "threshold_watershed", "connected_components")


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
    flat, _ = are_sections_apart(affinities.shape[1:], check_offsets(offsets), sampling)
    if method == "connected_components":
        labels = connected_components(affinities, offsets, threshold)
    elif method == "threshold_watershed":
        labels = threshold_watershed(affinities, offsets, threshold, per_section=flat)
    else:
        labels = hierarchy_of(affinities, offsets, sampling=sampling).cut(threshold)
    if flat:
        labels = link_sections(labels)
    return remove_small(labels, min_size) if min_size > 1 else labels
