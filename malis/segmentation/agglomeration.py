"""Merging fragments, best pair first, until nothing touches any more.

Each pair of touching regions has a score, taken from the affinities on the boundary between them:

mean      their mean (average linkage),
single    their maximum: the maximin affinity, MALIS' own measure,
quantile  a quantile of them, from histograms (Funke et al.).

The best pair is merged, its boundaries with third regions are put together, and their scores are
taken anew. None of the three scores can rise above those of the parts, so scores never increase
along the way, and the segmentation at any threshold is a prefix of the merges.
"""

import higra as hg
import numpy as np
import torch
from scipy import sparse

from malis._checks import Array, Offsets, as_numpy
from malis.segmentation.grid import as_affinities
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.mean import merge_by_mean
from malis.segmentation.numbering import compact
from malis.segmentation.quantile import merge_by_quantile
from malis.segmentation.regions import RegionGraph, RegionSums, graph_of_regions

LINKAGES = ("mean", "single", "quantile")


def agglomerate(
    affinities: Array,
    offsets: Offsets,
    fragments: Array,
    *,
    linkage: str = "mean",
    quantile: float = 0.75,
    initial_maximum: bool = False,
) -> Hierarchy:
    """Build the hierarchy of all merges of fragments.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
        Channels that are no unit steps are not used.
    fragments : (*spatial) integer array or tensor
        Labels, 0 = no fragment; see `malis.segmentation.fragments`.
    linkage : {"mean", "single", "quantile"}
        The score of two regions: mean, maximum or a quantile of the affinities between them.
    quantile : float
        In [0, 1], for linkage "quantile": 0.75 is exceeded by a quarter of the affinities.
    initial_maximum : bool
        For linkage "quantile": let only the largest affinity between two fragments count, so that
        quantiles are taken of maxima (the variant that Funke et al. recommend for some data).

    Returns
    -------
    Hierarchy
        ``hierarchy.cut(threshold)`` is the segmentation at a threshold.

    Raises
    ------
    ValueError
        If shapes disagree, an affinity is not a number in [0, 1], or linkage or quantile is
        unknown.
    TypeError
        If affinities are no floats or fragments no integers.

    References
    ----------
    Funke et al., IEEE TPAMI 41(7), 2019, section 3.3.
    """
    values, offsets = as_affinities(affinities, offsets)
    if tuple(fragments.shape) != values.shape[1:]:
        raise ValueError(
            f"fragments must have shape {values.shape[1:]} like the affinities, "
            f"got {tuple(fragments.shape)}"
        )
    leaves, ids = compact(fragments, "fragments")
    if np.may_share_memory(leaves, as_numpy(fragments)):
        leaves = leaves.copy()  # the caller may change fragments later
    graph = graph_of_regions(values, offsets, leaves, len(ids))
    merges, scores = merge_regions(
        graph, linkage=linkage, quantile=quantile, initial_maximum=initial_maximum
    )
    device = fragments.device if isinstance(fragments, torch.Tensor) else None
    return Hierarchy(leaves, len(ids), merges, scores, device)


def merge_regions(
    graph: RegionGraph | RegionSums,
    *,
    linkage: str = "mean",
    quantile: float = 0.75,
    initial_maximum: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the regions of a graph until nothing touches.

    Parameters
    ----------
    graph : RegionGraph or RegionSums
        With N regions. Sums are enough for linkage "mean" and "single".
    linkage, quantile, initial_maximum
        See `agglomerate`.

    Returns
    -------
    merges : (M, 2) int64 array
        The two regions of each merge; merge i makes region N + i.
    scores : (M,) float32 array
        Never increasing.

    Raises
    ------
    ValueError
        If linkage or quantile is unknown, or quantiles are asked for of sums.

    Notes
    -----
    With E pairs: single linkage O(E log E), the others O(E log E) times the number of times that a
    boundary is moved to another region, on EM data a handful.
    """
    if linkage not in LINKAGES:
        raise ValueError(f"linkage must be one of {', '.join(LINKAGES)}, got {linkage!r}")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in [0, 1], got {quantile}")
    if len(graph.edges) == 0:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if linkage == "single":
        return _single(graph)
    if linkage == "mean":
        return merge_by_mean(graph)
    if isinstance(graph, RegionSums):
        raise ValueError("linkage 'quantile' needs all affinities of a boundary, not their sum")
    return merge_by_quantile(graph, quantile, initial_maximum)


def _single(graph: RegionGraph | RegionSums) -> tuple[np.ndarray, np.ndarray]:
    """Merge in the order of Kruskal's algorithm."""
    ones = np.ones(len(graph.edges), dtype=bool)
    table = sparse.coo_array((ones, tuple(graph.edges.T)), (graph.n_regions, graph.n_regions))
    _, component = sparse.csgraph.connected_components(table, directed=False)
    first = np.unique(component, return_index=True)[1]
    # Further edges, after all others, tie the components together: Higra wants one tree.
    edges = np.concatenate([graph.edges, np.stack([first[:-1], first[1:]], axis=1)])
    n_edges = len(graph.edges)
    by_score = np.argsort(-graph.maximum, kind="stable")
    tree = hg.bpt_canonical(
        (edges[:, 0], edges[:, 1], graph.n_regions),
        sorted_edge_indices=np.concatenate([by_score, np.arange(n_edges, len(edges))]),
        return_altitudes=False,
        compute_mst=False,
    )
    used = tree.mst_edge_map[tree.mst_edge_map < n_edges]
    children = np.argsort(tree.parents()[:-1], kind="stable")
    return children[: 2 * len(used)].reshape(-1, 2), graph.maximum[used]
