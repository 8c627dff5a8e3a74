"""Merging fragments, best pair first, until nothing touches any more.

Each pair of touching regions has a score, taken from the affinities on the boundary between them:

mean      their mean (average linkage),
single    their maximum: the maximin affinity, MALIS' own measure,
quantile  a quantile of them, from histograms (Funke et al.); in `malis.segmentation.quantile`.

The best pair is merged, its boundaries with third regions are put together, and their scores are
taken anew. None of the three scores can rise above those of the parts, so scores never increase
along the way, and the segmentation at any threshold is a prefix of the merges.

**Rounds.** By the mean, two regions that are each other's best neighbour stay so, whatever is
merged elsewhere, until they are merged themselves. All such pairs can be merged in one round of
array operations, and when the scores are sorted in the end, the order is that of one merge at a
time. Where one region takes in its neighbours one after the other, a round merges little; then a
queue of pairs, Higra's average linkage, does the rest.
"""

import higra as hg
import numpy as np
import torch

from malis._checks import Array, Offsets
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.numbering import joined
from malis.segmentation.quantile import merge_by_quantile
from malis.segmentation.regions import RegionGraph, RegionSums, number_and_graph

LINKAGES = ("mean", "single", "quantile")
FEW = 1 / 30  # of the regions: too few merges for a round


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
        If shapes disagree, an affinity is not a number in [0, 1], a label is negative, or linkage
        or quantile is unknown.
    TypeError
        If affinities are no floats or fragments no integers.

    References
    ----------
    Funke et al., IEEE TPAMI 41(7), 2019, section 3.3.
    """
    leaves, graph = number_and_graph(affinities, offsets, fragments)
    sums = graph.sums()
    merges, scores = merge_regions(
        graph if linkage == "quantile" else sums,
        linkage=linkage,
        quantile=quantile,
        initial_maximum=initial_maximum,
    )
    device = fragments.device if isinstance(fragments, torch.Tensor) else None
    return Hierarchy(leaves, graph.n_regions, merges, scores, device, sums)


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
    """
    if linkage not in LINKAGES:
        raise ValueError(f"linkage must be one of {', '.join(LINKAGES)}, got {linkage!r}")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in [0, 1], got {quantile}")
    if len(graph.edges) == 0:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if linkage == "single":
        return _merge_by_maximum(graph)
    if linkage == "mean":
        return _merge_by_mean(graph)
    if isinstance(graph, RegionSums):
        raise ValueError("linkage 'quantile' needs all affinities of a boundary, not their sum")
    return merge_by_quantile(graph, quantile, initial_maximum)


def _merge_by_maximum(graph: RegionGraph | RegionSums) -> tuple[np.ndarray, np.ndarray]:
    """Merge in the order of Kruskal's algorithm."""
    low, high = graph.edges.T
    first, second = _ties(graph.n_regions, low, high)
    n_edges, n_ties = len(low), len(first)
    by_score = np.argsort(-graph.maximum, kind="stable")
    tree = hg.bpt_canonical(
        (np.append(low, first), np.append(high, second), graph.n_regions),
        sorted_edge_indices=np.append(by_score, np.arange(n_edges, n_edges + n_ties)),
        return_altitudes=False,
        compute_mst=False,
    )
    used = tree.mst_edge_map[tree.mst_edge_map < n_edges]
    return _children(tree, len(used)), graph.maximum[used]


def _ties(n: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tie the components of a graph together, after all other edges: Higra wants one tree."""
    first = np.unique(joined(n, low, high), return_index=True)[1]
    return first[:-1], first[1:]


def _children(tree: hg.Tree, n_merges: int) -> np.ndarray:
    """Return the (M, 2) children of the first merges of a tree."""
    children = np.argsort(tree.parents()[:-1], kind="stable")
    return children[: 2 * n_merges].reshape(-1, 2)


def _merge_by_mean(graph: RegionGraph | RegionSums) -> tuple[np.ndarray, np.ndarray]:
    """Merge all pairs that prefer each other, round after round."""
    n = graph.n_regions
    low, high = graph.edges.T
    total, contact = graph.total, graph.contact.astype(np.float64)
    node, limit = np.arange(n), np.full(n, np.inf)  # of each region; no merge exceeds its parts
    merges, scores, made = [], [], n
    while len(low):
        mean = total / contact
        mutual = _mutual(len(node), low, high, mean)
        one, other = low[mutual], high[mutual]
        if len(one) < FEW * len(node):
            rest, score = _one_by_one(node, limit, (low, high), mean, contact, made)
            merges.append(rest)
            scores.append(score)
            break
        score = np.minimum(mean[mutual], np.minimum(limit[one], limit[other]))
        merges.append(np.stack([node[one], node[other]], axis=1))
        scores.append(score)
        node[one], limit[one] = np.arange(made, made + len(one)), score
        made += len(one)
        region = np.arange(len(node))
        region[other] = one
        low, high, total, contact = _put_together(region[low], region[high], total, contact)
        touching = np.zeros(len(node), dtype=bool)
        touching[low] = touching[high] = True
        number = np.cumsum(touching) - 1
        low, high, node, limit = number[low], number[high], node[touching], limit[touching]
    return _in_order(n, np.concatenate(merges), np.concatenate(scores))


def _mutual(n: int, low: np.ndarray, high: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Find the pairs that are the best of both their regions; of equal ones the first is best."""
    rank = np.empty(len(mean), np.int64)
    rank[np.argsort(-mean, kind="stable")] = np.arange(len(mean))
    best = np.full(n, len(mean))
    np.minimum.at(best, low, rank)
    np.minimum.at(best, high, rank)
    return (best[low] == rank) & (best[high] == rank)


def _put_together(
    one: np.ndarray, other: np.ndarray, total: np.ndarray, contact: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Add up what lies between the same two regions; drop what has come to lie within one."""
    kept = one != other
    one, other, total, contact = one[kept], other[kept], total[kept], contact[kept]
    low, high = np.minimum(one, other), np.maximum(one, other)
    key = low * (high.max(initial=0) + 1) + high
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    if not len(first):
        return low, high, total, contact
    low, high = low[order[first]], high[order[first]]
    return low, high, *(np.add.reduceat(sums[order], first) for sums in (total, contact))


def _one_by_one(
    node: np.ndarray,
    limit: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    mean: np.ndarray,
    contact: np.ndarray,
    made: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Merge what is left by Higra's average linkage."""
    n, ties = len(node), _ties(len(node), *ends)
    pairs = hg.UndirectedGraph(n)
    pairs.add_edges(*ends)
    pairs.add_edges(*ties)
    # Higra merges the smallest weight first. Ties between components weigh 1, more than any pair,
    # and no average changes that, since nothing else joins the components.
    tie = np.ones(len(ties[0]))
    tree, altitudes = hg.binary_partition_tree_average_linkage(
        pairs, np.concatenate([-mean, tie]), np.concatenate([contact, tie])
    )
    score = -altitudes[n : len(altitudes) - len(tie)]
    children = _children(tree, len(score))
    limits = np.append(limit, np.full(len(score), np.inf))
    score = np.minimum.accumulate(np.minimum(score, limits[children].min(axis=1)))
    return np.append(node, np.arange(made, made + len(score)))[children], score


def _in_order(n: int, merges: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort merges by score; parts come before what is made of them, as nothing exceeds its parts.

    Rounding alone could make the mean of two means larger than both, hence the limits.
    """
    order = np.argsort(-scores, kind="stable")
    place = np.empty(n + len(order), np.int64)
    place[:n] = np.arange(n)
    place[n + order] = n + np.arange(len(order))
    return np.sort(place[merges[order]], axis=1), scores[order].astype(np.float32)
