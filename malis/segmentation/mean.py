"""Merging by the mean of the boundary: all pairs that prefer each other at once.

A merge never raises the mean affinity to a third region above the higher one of the two that it
puts together. So two regions that are each other's best neighbour stay so, whatever is merged
elsewhere, until they are merged themselves. All such pairs can be merged in one round of array
operations, and when the scores are sorted in the end, the order is that of one merge at a time.

Where one region takes in its neighbours one after the other, a round merges little. Then a queue
of pairs, Higra's average linkage, does the rest.
"""

import higra as hg
import numpy as np
from scipy import sparse

from malis.segmentation.regions import RegionGraph, RegionSums

FEW = 1 / 30  # of the regions: too few merges for a round


def merge_by_mean(graph: RegionGraph | RegionSums) -> tuple[np.ndarray, np.ndarray]:
    """Merge the regions of a graph, the pair with the highest mean affinity first.

    Parameters
    ----------
    graph : RegionGraph or RegionSums
        With at least one pair.

    Returns
    -------
    merges : (M, 2) int64 array
        The two regions of each merge; merge i makes region N + i.
    scores : (M,) float32 array
        Never increasing.

    Notes
    -----
    A round is O(E log E) for the E pairs that are left, and merges at least a thirtieth of the
    regions, except for the last one.
    """
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
    n = len(node)
    ones = np.ones(len(mean), dtype=bool)
    table = sparse.coo_array((ones, ends), (n, n))
    _, component = sparse.csgraph.connected_components(table, directed=False)
    first = np.unique(component, return_index=True)[1]
    pairs = hg.UndirectedGraph(n)
    pairs.add_edges(*ends)
    pairs.add_edges(first[:-1], first[1:])
    # Higra merges the smallest weight first. Ties between components weigh 1, more than any pair,
    # and no average changes that, since nothing else joins the components.
    tie = np.ones(len(first) - 1)
    tree, altitudes = hg.binary_partition_tree_average_linkage(
        pairs, np.concatenate([-mean, tie]), np.concatenate([contact, tie])
    )
    score = -altitudes[n : len(altitudes) - len(tie)]
    children = np.argsort(tree.parents()[:-1], kind="stable")[: 2 * len(score)].reshape(-1, 2)
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
