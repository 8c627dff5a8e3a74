"""The one recipe: affinities to fragments, fragments to the hierarchy of their merges.

`malis.segment`, validation, the report and the blocks of large volumes all follow it, so that a
threshold that one of them chose fits the others. It decides three things: whether sections are cut
into fragments one by one, how long the sides of a voxel are, and where objects have their inside.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from malis._checks import Array, Offsets, check_offsets
from malis.segmentation.agglomeration import agglomerate
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.oversegmentation import fragments, inside_threshold

THICK = 3.0  # sections this many times thicker than a pixel is wide are cut one by one


def hierarchy_of(
    affinities: Array,
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    inside: float | None = None,
    **linkage: Any,
) -> Hierarchy:
    """Cut affinities into fragments and build the hierarchy of their merges.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
    sampling : sequence of float, optional
        Size of a voxel along every axis, in any unit; equal sides by default.
    inside : float, optional
        Average affinity above which a voxel lies inside an object; by default what
        `inside_threshold` finds.
    **linkage
        Arguments of `agglomerate`: ``linkage``, ``quantile``, ``initial_maximum``.

    Returns
    -------
    Hierarchy
        ``hierarchy.cut(threshold)`` is the segmentation at a threshold.

    Raises
    ------
    ValueError, TypeError
        See `fragments` and `agglomerate`.
    """
    return hierarchies_of([affinities], offsets, sampling=sampling, inside=inside, **linkage)[0]


def hierarchies_of(
    parts: Sequence[Array],
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    inside: float | None = None,
    **linkage: Any,
) -> list[Hierarchy]:
    """Do what `hierarchy_of` does with several parts, for instance the sections of one volume.

    Parameters
    ----------
    parts : sequence of (C, *spatial) float arrays or tensors
        They share one threshold of what is inside.
    offsets, sampling, inside, **linkage
        See `hierarchy_of`.

    Returns
    -------
    list of Hierarchy

    Raises
    ------
    ValueError, TypeError
        See `hierarchy_of`.
    """
    pieces = fragments_of(parts, offsets, sampling=sampling, inside=inside)
    return [
        agglomerate(part, offsets, piece, **linkage)
        for part, piece in zip(parts, pieces, strict=True)
    ]


def fragments_of(
    parts: Sequence[Array],
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    inside: float | None = None,
) -> list[Array]:
    """Take the first half of the recipe, for whoever agglomerates the fragments in several ways.

    Parameters
    ----------
    parts, offsets, sampling, inside
        See `hierarchies_of`.

    Returns
    -------
    list of (*spatial) uint64 arrays or int64 tensors
        The fragments of every part.

    Raises
    ------
    ValueError, TypeError
        See `fragments`.
    """
    apart = any(are_sections_apart(parts[0].shape[1:], check_offsets(offsets), sampling))
    if inside is None:
        inside = inside_threshold(parts, offsets, per_section=apart)
    settings = {"threshold": inside, "sampling": sampling, "per_section": apart}
    return [fragments(part, offsets, **settings) for part in parts]


def parts_of(volume: np.ndarray, ndim: int) -> list[np.ndarray]:
    """Take a volume apart into what is segmented and scored on its own.

    Parameters
    ----------
    volume : (..., z, y, x) array
        Affinities or labels.
    ndim : int
        Axes of the offsets: sections if they have 2, else the volume as a whole.

    Returns
    -------
    list of array
        Views.
    """
    return list(np.moveaxis(volume, -3, 0)) if ndim == 2 else [volume]


def are_sections_apart(
    shape: tuple[int, ...], offsets: np.ndarray, sampling: Sequence[float] | None
) -> tuple[bool, bool]:
    """Tell whether sections are cut into fragments one by one.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape.
    offsets : (C, ndim) int64 array
    sampling : sequence of float, optional
        Size of a voxel along every axis.

    Returns
    -------
    flat : bool
        They are, because no channel of unit steps joins them; then they have to be linked.
    thick : bool
        They are, because they are much thicker than a pixel is wide.

    Raises
    ------
    ValueError
        If the sampling has not as many numbers as there are axes.
    """
    if sampling is not None and len(sampling) != offsets.shape[1]:
        raise ValueError(
            f"sampling must be {offsets.shape[1]} positive numbers, one for each axis, "
            f"got {sampling}"
        )
    in_volume = offsets.shape[1] == 3 and len(shape) == 3
    flat = in_volume and shape[0] > 1 and not _has_unit_step(offsets, axis=0)
    thick = in_volume and sampling is not None and sampling[0] >= THICK * min(sampling[1:])
    return flat, thick


def _has_unit_step(offsets: np.ndarray, axis: int) -> bool:
    return bool(((np.abs(offsets).sum(axis=1) == 1) & (offsets[:, axis] != 0)).any())
