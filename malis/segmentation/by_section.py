"""Fragments and region graph of a volume whose sections are cut one by one.

Two sections are in memory at a time, and what the graph keeps of them. A pair of fragments that
touch lies in one section or in two neighbouring ones, so the graph of a volume is that of its
sections and that of their neighbourhoods put together, sum for sum.
"""

from collections.abc import Sequence

import numpy as np
import torch

from malis._checks import Array
from malis.segmentation.grid import as_affinities
from malis.segmentation.oversegmentation import fragment_steps
from malis.segmentation.regions import RegionGraph, RegionSums, graph_of_regions, join_graphs


def graph_by_section(
    affinities: Array,
    offsets: np.ndarray,
    sampling: Sequence[float] | None,
    inside: float,
    all_affinities: bool,
) -> tuple[np.ndarray, RegionGraph | RegionSums]:
    """Cut every section into fragments, and gather the affinities between all of them.

    Parameters
    ----------
    affinities : (C, z, y, x) float array or tensor
        Read section by section.
    offsets : (C, 3) int64 array
        Edges between sections count if they are unit steps.
    sampling : sequence of 3 floats, optional
        Size of a voxel.
    inside : float
        See `fragments`.
    all_affinities : bool
        Keep the single affinities; else their sums.

    Returns
    -------
    leaves : (z, y, x) int32 array
        Fragments 1 ... N; 0 = none.
    graph : RegionGraph or RegionSums
        Of the fragments.

    Raises
    ------
    ValueError, TypeError
        See `fragments`.
    """
    channels, flat = within_sections(offsets)
    across = np.flatnonzero((np.abs(offsets).sum(axis=1) == 1) & (offsets[:, 0] != 0)).tolist()
    stack = torch.stack if isinstance(affinities, torch.Tensor) else np.stack
    sides = None if sampling is None else tuple(sampling[1:])
    leaves = np.zeros(tuple(affinities.shape[1:]), np.int32)
    parts: list = []
    first, last = 0, None  # fragment of this section; edges and fragments of the one before it

    def add(graph: RegionGraph, first: int) -> None:
        graph = RegionGraph(0, graph.edges + first, graph.affinities, graph.starts)
        parts.append(graph if all_affinities else graph.sums())

    for z in range(len(leaves)):
        section = affinities[:, z]
        values, _ = as_affinities(section[channels], flat)
        pieces = fragment_steps(values, flat, threshold=inside, sampling=sides).fragments
        n_pieces = int(pieces.max())
        add(graph_of_regions(values, flat, pieces, n_pieces), first)
        if across and last is not None:
            edges, below, n_below = last
            values, _ = as_affinities(stack([edges, section[across]], 1), offsets[across])
            both = np.stack([below, np.where(pieces > 0, pieces + n_below, 0)])
            graph = graph_of_regions(values, offsets[across], both, n_below + n_pieces)
            add(graph, first - n_below)
        last = section[across], pieces, n_pieces
        np.copyto(leaves[z], pieces + first, where=pieces > 0)
        first += n_pieces
    return leaves, join_graphs(first, parts)


def within_sections(offsets: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the channels whose edges lie within sections, and their offsets in 2D.

    Parameters
    ----------
    offsets : (C, 3) int64 array

    Returns
    -------
    channels : list of int
    offsets : (K, 2) int64 array
    """
    channels = np.flatnonzero(offsets[:, 0] == 0)
    return channels.tolist(), offsets[channels, 1:]
