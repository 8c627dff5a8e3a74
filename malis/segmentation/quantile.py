"""Merging by a quantile of the boundary: histograms that add up, and a queue of pairs.

A quantile of two boundaries together cannot be told from the quantiles of each, but from the sum of
their histograms it can, to the width of a bin.
"""

from heapq import heapify, heappop, heapreplace

import numpy as np

from malis.segmentation.regions import RegionGraph

BINS = 256


def merge_by_quantile(
    graph: RegionGraph, quantile: float, initial_maximum: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the regions of a graph, the pair with the highest quantile first.

    Of n affinities in ascending order, the one of rank ``floor(quantile n) + 1`` counts. Within a
    bin, pairs are merged in the order of their mean affinity before any merge.
    With `initial_maximum`, only the largest affinities between two fragments count, those in the
    highest bin. Scores are the middles of bins.
    """
    n_pairs = len(graph.edges)
    level = np.minimum(graph.affinities * np.float32(BINS), np.float32(BINS - 1)).astype(np.int64)
    by_mean = np.argsort(-graph.mean, kind="stable")
    rank = np.empty(n_pairs, dtype=np.int64)
    rank[by_mean] = np.arange(n_pairs)
    pair = np.repeat(np.arange(n_pairs), graph.contact)
    if initial_maximum:
        highest = level == np.maximum.reduceat(level, graph.starts[:-1])[pair]
        level, pair = level[highest], pair[highest]
    histograms = np.bincount(rank[pair] * BINS + level, minlength=n_pairs * BINS)
    histograms = histograms.reshape(n_pairs, BINS).astype(np.int32)
    merges, bins = _merge_best_first(graph.n_regions, graph.edges[by_mean], histograms, quantile)
    scores = (np.array(bins, dtype=np.float32) + np.float32(0.5)) / np.float32(BINS)
    return np.array(merges, dtype=np.int64), scores


def _merge_best_first(
    n_regions: int, edges: np.ndarray, histograms: np.ndarray, quantile: float
) -> tuple[list[tuple[int, int]], list[int]]:
    """Merge the first pair of the highest bin, again and again; adds up histograms in place.

    When A is merged into B, the boundary of A with a third region C becomes part of that of B and
    C. The boundary in the higher bin absorbs the other. As both together are not in a higher bin
    than that, theirs is looked up only when its turn comes.
    """
    n_pairs = len(edges)
    total = histograms.sum(axis=1)
    rank = np.minimum((quantile * total).astype(np.int64) + 1, total)
    below = np.cumsum(histograms, axis=1, dtype=np.int32) < rank[:, None]
    bin_of, totals = below.sum(axis=1).tolist(), total.tolist()

    one_end, other_end = edges.T.tolist()
    neighbours: list[dict[int, int]] = [{} for _ in range(n_regions)]
    for pair, (one, other) in enumerate(zip(one_end, other_end, strict=True)):
        neighbours[one][other] = neighbours[other][one] = pair
    # A queue of single numbers: high bins first, and within a bin the first pairs.
    queue = [(BINS - bin_of[pair]) * n_pairs + pair for pair in range(n_pairs)]
    heapify(queue)
    gone, outdated = bytearray(n_pairs), bytearray(n_pairs)
    region = list(range(n_regions))  # what has grown from each of the first regions
    merges, merge_bins = [], []
    while queue:
        pair = queue[0] % n_pairs
        if gone[pair]:
            heappop(queue)
            continue
        if outdated[pair]:
            outdated[pair] = False
            rank = min(int(quantile * totals[pair]) + 1, totals[pair])
            bin_of[pair] = int(histograms[pair].cumsum().searchsorted(rank))
            heapreplace(queue, (BINS - bin_of[pair]) * n_pairs + pair)
            continue
        heappop(queue)
        gone[pair] = True
        small, large = one_end[pair], other_end[pair]
        if len(neighbours[small]) > len(neighbours[large]):
            small, large = large, small
        merges.append((region[small], region[large]))
        merge_bins.append(bin_of[pair])
        region[large] = n_regions + len(merges) - 1
        del neighbours[small][large], neighbours[large][small]
        of_large = neighbours[large]
        for third, moved in neighbours[small].items():
            of_third = neighbours[third]
            del of_third[small]
            kept = of_large.get(third)
            if kept is not None:
                if bin_of[moved] > bin_of[kept]:
                    moved, kept = kept, moved
                histogram = histograms[kept]
                histogram += histograms[moved]
                totals[kept] += totals[moved]
                gone[moved] = outdated[kept] = True
                moved = kept
            of_large[third] = of_third[large] = moved
            one_end[moved], other_end[moved] = large, third
        neighbours[small] = {}
    return merges, merge_bins
