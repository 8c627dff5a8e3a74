"""The one recipe: affinities to fragments, fragments to the hierarchy of their merges.

`malis.segment`, validation, the report and the blocks of large volumes all follow it, so that a
threshold that one of them chose fits the others. It decides three things: whether sections are cut
into fragments one by one, how long the sides of a voxel are, and where objects have their inside.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from malis._checks import Array, Offsets, check_affinity_shape, check_offsets
from malis.segmentation.agglomeration import agglomerate, merge_regions
from malis.segmentation.grid import as_affinities, within_sections
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.oversegmentation import fragment_steps, fragments, inside_threshold
from malis.segmentation.regions import RegionGraph, RegionSums, graph_of_regions, join_graphs

THICK = 3.0  # sections this many times thicker than a pixel is wide are cut one by one
SAMPLED = 10  # sections of a volume, or parts of several, that tell where objects have their inside


def hierarchy_of(
    affinities: Array,
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    per_section: bool | None = None,
    inside: float | None = None,
    linkage: str = "mean",
    **settings: Any,
) -> Hierarchy:
    """Cut affinities into fragments and build the hierarchy of their merges.

    Fragments lie within sections where sections are much thicker than a pixel is wide or where no
    channel joins them; their graph has the edges of all channels, those between sections included.

    Parameters
    ----------
    affinities, offsets, sampling, per_section, inside
        See `segment`.
    linkage, **settings
        See `agglomerate`.

    Returns
    -------
    Hierarchy
        ``hierarchy.cut(threshold)`` is the segmentation at a threshold.

    Raises
    ------
    ValueError, TypeError
        See `fragments` and `agglomerate`.
    """
    steps = check_offsets(offsets)
    check_affinity_shape(affinities.shape, steps, batched=False)
    _, apart = are_sections_apart(tuple(affinities.shape[1:]), steps, sampling, per_section)
    if not (apart or isinstance(affinities, np.ndarray | torch.Tensor)):
        affinities = affinities[...]
    if inside is None:
        inside = inside_threshold(*sampled([affinities], steps, per_section=apart))
    if apart:
        sums = linkage != "quantile"  # which needs all affinities of a boundary
        leaves, graph = _graph_by_section(affinities, steps, sampling, inside, sums)
        merges, scores = merge_regions(graph, linkage=linkage, **settings)
        device = affinities.device if isinstance(affinities, torch.Tensor) else None
        graph = graph if sums else graph.sums()
        return Hierarchy(leaves, graph.n_regions, merges, scores, device, graph)
    pieces = fragments(affinities, steps, threshold=inside, sampling=sampling)
    return agglomerate(affinities, steps, pieces, linkage=linkage, **settings)


def hierarchies_of(
    parts: Sequence[Array],
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    per_section: bool | None = None,
    inside: float | None = None,
    **linkage: Any,
) -> list[Hierarchy]:
    """Do what `hierarchy_of` does with several parts, for instance the sections of one volume.

    The parts, (C, *spatial) float arrays or tensors, share one threshold of what is inside.
    """
    settings = {"sampling": sampling, "per_section": per_section}
    if inside is None:
        inside = inside_threshold(*sampled(parts, offsets, **settings))
    return [hierarchy_of(part, offsets, inside=inside, **settings, **linkage) for part in parts]


def fragments_of(
    parts: Sequence[Array],
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    per_section: bool | None = None,
    inside: float | None = None,
) -> list[Array]:
    """Take the first half of the recipe, for whoever agglomerates the fragments in several ways.

    See `hierarchies_of` for the arguments, and `fragments` for those of every part.
    """
    if inside is None:
        inside = inside_threshold(
            *sampled(parts, offsets, sampling=sampling, per_section=per_section)
        )
    shape, steps = tuple(parts[0].shape[1:]), check_offsets(offsets)
    _, apart = are_sections_apart(shape, steps, sampling, per_section)
    settings = {"threshold": inside, "sampling": sampling, "per_section": apart}
    return [fragments(part, offsets, **settings) for part in parts]


def sampled(
    parts: Sequence[Array],
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    per_section: bool | None = None,
) -> tuple[list[Array], np.ndarray]:
    """Pick affinities that tell where objects have their inside; return them and their offsets.

    At most `SAMPLED` of the parts or, of volumes whose sections are cut one by one, at most as many
    of their sections. They lie evenly apart.
    """
    steps = check_offsets(offsets)
    _, apart = are_sections_apart(tuple(parts[0].shape[1:]), steps, sampling, per_section)
    if not apart:
        return [parts[place] for place in _spread(len(parts))], steps
    channels, flat = within_sections(steps)
    places = [(part, z) for part in parts for z in range(part.shape[1])]
    chosen = [places[place] for place in _spread(len(places))]
    return [part[:, z][channels] for part, z in chosen], flat


def _spread(n: int) -> list[int]:
    return sorted(set(np.linspace(0, n - 1, min(n, SAMPLED)).round().astype(int).tolist()))


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
    shape: tuple[int, ...],
    offsets: np.ndarray,
    sampling: Sequence[float] | None,
    per_section: bool | None = None,
) -> tuple[bool, bool]:
    """Tell whether sections are cut into fragments one by one.

    Returns
    -------
    flat : bool
        They are, because no channel of unit steps joins them; then they have to be linked.
    apart : bool
        They are, for that reason, because the caller wants it, or because they are thick.
    """
    if sampling is not None and len(sampling) != offsets.shape[1]:
        raise ValueError(
            f"sampling must be {offsets.shape[1]} positive numbers, one for each axis, "
            f"got {sampling}"
        )
    in_volume = offsets.shape[1] == 3 and len(shape) == 3
    if per_section and not in_volume:
        raise ValueError(f"per_section needs a volume (z, y, x), got shape {shape}")
    across, _ = _between_sections(offsets)
    flat = in_volume and shape[0] > 1 and not across
    if per_section is None and in_volume and sampling is not None:
        per_section = sampling[0] >= THICK * min(sampling[1:])
    return flat, flat or bool(per_section)


def _between_sections(offsets: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the channels of unit steps from a section to the next or last, and their offsets."""
    channels = np.flatnonzero((np.abs(offsets).sum(axis=1) == 1) & (offsets[:, 0] != 0))
    return channels.tolist(), offsets[channels]


def _graph_by_section(
    affinities: Array,
    offsets: np.ndarray,
    sampling: Sequence[float] | None,
    inside: float,
    sums: bool,
) -> tuple[np.ndarray, RegionGraph | RegionSums]:
    """Cut every section into fragments, and gather the affinities between all of them, or sums.

    Return the (z, y, x) int32 fragments, numbered through, and their graph. Two sections are in
    memory at a time, and what the graph keeps of them. A pair of fragments that touch lies in one
    section or in two neighbouring ones, so the graph of a volume is that of its sections and that
    of their neighbourhoods put together.
    """
    channels, flat = within_sections(offsets)
    across, steps = _between_sections(offsets)
    stack = torch.stack if isinstance(affinities, torch.Tensor) else np.stack
    sides = None if sampling is None else tuple(sampling[1:])
    leaves = np.zeros(tuple(affinities.shape[1:]), np.int32)
    parts: list = []
    first, last = 0, None  # fragment of this section; edges and fragments of the one before it

    def add(graph: RegionGraph, first: int) -> None:
        graph = RegionGraph(0, graph.edges + first, graph.affinities, graph.starts)
        parts.append(graph.sums() if sums else graph)

    for z in range(len(leaves)):
        section = affinities[:, z]
        values, _ = as_affinities(section[channels], flat)
        pieces = fragment_steps(values, flat, threshold=inside, sampling=sides).fragments
        n_pieces = int(pieces.max())
        add(graph_of_regions(values, flat, pieces, n_pieces), first)
        if across and last is not None:
            edges, below, n_below = last
            values, _ = as_affinities(stack([edges, section[across]], 1), steps)
            both = np.stack([below, np.where(pieces > 0, pieces + n_below, 0)])
            graph = graph_of_regions(values, steps, both, n_below + n_pieces)
            add(graph, first - n_below)
        last = section[across], pieces, n_pieces
        np.copyto(leaves[z], pieces + first, where=pieces > 0)
        first += n_pieces
    return leaves, join_graphs(first, parts)
