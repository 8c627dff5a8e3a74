"""A seeded watershed that never crosses a closed edge while there is another way.

Water rises from the seeds, down a landscape of heights: a voxel goes to the seed whose path to it
has the highest lowest point. That is a maximum spanning forest with one seed in each tree, where
the edge between two voxels weighs as much as the lower of the two (Cousty et al., IEEE TPAMI 31(8),
2009). Two steps find it without a queue of voxels:

1. The best edge of a voxel leads to its highest neighbour, and best edges belong to a maximum
   spanning forest. So every voxel points uphill; the voxels below one peak form a basin.
2. Kruskal's algorithm joins the basins, which are few, over the passes between them.

An edge can be closed: affinity 0 says that its ends are two objects. Parts that only closed edges
reach become regions of their own, unless they are single voxels with nothing but closed edges (as
inside a membrane): those are flooded last.
"""

import higra as hg
import numpy as np

from malis.maximin import merge_order
from malis.segmentation.grid import Edges
from malis.segmentation.numbering import joined
from malis.segmentation.regions import group_by_pair

PART = 2**18  # voxels that are looked at together


def seeded_watershed(
    heights: np.ndarray, seeds: np.ndarray, edges: list[Edges], is_open: list[np.ndarray]
) -> np.ndarray:
    """Flood a landscape from seeds.

    Parameters
    ----------
    heights : (*spatial) float32 array
        Not negative; seeds should stand on peaks.
    seeds : (*spatial) int32 array
        Labels 1 ... S of the seeds, 0 elsewhere.
    edges : list of Edges
        Edges along which water may run.
    is_open : list of bool array
        For each of them, shaped like its views: False closes an edge.

    Returns
    -------
    (*spatial) int32 array
        Labels of the seeds, and S + 1, ... for parts of at least two voxels that no open edge joins
        to a seed. 0 where there is none of both.
    """
    basins, roots, has_open_edge = _basins(heights, seeds, edges, is_open)
    seed_voxels = np.flatnonzero(seeds)
    label = _join_basins(
        len(roots),
        basins.ravel()[seed_voxels],
        seeds.ravel()[seed_voxels],
        _passes(heights, basins, edges, is_open),
        np.flatnonzero(has_open_edge.ravel()[roots]),
        _passes(heights, basins, edges, is_open, has_open_edge),
    )
    return label[basins]


def _basins(
    heights: np.ndarray, seeds: np.ndarray, edges: list[Edges], is_open: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow the steepest way up from every voxel.

    Return the basins, (*spatial) int32 numbers 0, 1, ... by their peaks; the voxel of every peak;
    and which voxels have an open edge.
    """
    shape = heights.shape
    has_open_edge, best = np.zeros(shape, dtype=bool), heights.copy()
    way = np.zeros(shape, dtype=np.uint8)  # 0: here; else the number of a step
    steps = [0]
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    for (_, near, far), passable in zip(edges, is_open, strict=True):
        offset = [there.start - here.start for here, there in zip(near, far, strict=True)]
        for here, there, sign in ((near, far, 1), (far, near, -1)):
            has_open_edge[here] |= passable
            higher = passable & (heights[there] > best[here])
            np.copyto(best[here], heights[there], where=higher)
            way[here][higher] = len(steps)
            steps.append(sign * int(np.dot(offset, strides)))
    del best
    way.ravel()[np.flatnonzero(seeds)] = 0
    dtype = np.int32 if heights.size < 2**31 else np.int64
    uphill = np.array(steps, dtype)[way].ravel()
    uphill += np.arange(heights.size, dtype=dtype)
    while True:
        further = uphill[uphill]  # paths double in length
        if np.array_equal(further, uphill):
            break
        uphill = further
    roots = np.flatnonzero(way.ravel() == 0)
    further[roots] = np.arange(len(roots), dtype=dtype)
    return further[uphill].astype(np.int32, copy=False).reshape(shape), roots, has_open_edge


def _passes(
    heights: np.ndarray,
    basins: np.ndarray,
    edges: list[Edges],
    is_open: list[np.ndarray],
    has_open_edge: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the highest edge between any two basins; return their ends, the highest first.

    Of the open edges or, where it is said which voxels have one, of the closed edges that matter:
    those of voxels without another. A part of the volume at a time, because edges between basins
    are many and the pairs of basins few.
    """
    n_basins = int(basins.max()) + 1
    pairs, weights = [np.zeros((2, 0), np.int32)], [np.zeros(0, np.float32)]
    for (_, near, far), passable in zip(edges, is_open, strict=True):
        depth = max(PART * len(passable) // max(passable.size, 1), 1)
        for start in range(0, len(passable), depth):
            part = slice(start, start + depth)
            taken = passable[part]
            if has_open_edge is not None:
                taken = ~(taken | (has_open_edge[near][part] & has_open_edge[far][part]))
            one, other = basins[near][part], basins[far][part]
            crossing = taken & (one != other)
            if not crossing.any():
                continue
            ends = one[crossing], other[crossing]
            pair = np.stack([np.minimum(*ends), np.maximum(*ends)])
            first, last = int(pair.min()), int(pair.max())
            weight = np.minimum(heights[near][part][crossing], heights[far][part][crossing])
            between = group_by_pair(last - first + 1, pair - first, weight)
            pairs.append(between.edges.T.astype(np.int32) + np.int32(first))
            weights.append(between.maximum)
    between = group_by_pair(n_basins, np.concatenate(pairs, axis=1), np.concatenate(weights))
    return tuple(between.edges[merge_order(between.maximum)].T)


def _join_basins(
    n_basins: int,
    seed_basins: np.ndarray,
    seed_labels: np.ndarray,
    open_passes: tuple[np.ndarray, np.ndarray],
    reachable: np.ndarray,
    closed_passes: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Join basins by Kruskal's algorithm so that no two seeds meet; return the basins' labels.

    One more node, the source, is tied to every seed before anything else; without its ties the
    spanning tree falls apart into one tree for each seed. Basins that no open pass joins to a seed
    are tied to the source next, and what is left in the end is tied last, without a label.
    """
    seeded, own, rest = (
        (np.full(len(basins), n_basins), basins)
        for basins in (seed_basins, reachable, np.arange(n_basins))
    )
    parts = [seeded, open_passes, own, closed_passes, rest]
    first = np.cumsum([0, *(len(ends) for _, ends in parts)])
    start, end = (np.concatenate(side).astype(np.int64) for side in zip(*parts, strict=True))
    tree = hg.bpt_canonical(
        (start, end, n_basins + 1),
        sorted_edge_indices=np.arange(len(start)),
        return_altitudes=False,
        compute_mst=False,
    )
    chosen = tree.mst_edge_map
    tied = start[chosen] == n_basins
    tree_of_basin = joined(n_basins, start[chosen[~tied]], end[chosen[~tied]])
    label = np.zeros(tree_of_basin.max() + 1, dtype=np.int32)
    label[tree_of_basin[seed_basins]] = seed_labels
    unseeded = chosen[tied & (chosen >= first[2]) & (chosen < first[3])]
    n_seeds = int(seed_labels.max(initial=0))
    label[tree_of_basin[end[unseeded]]] = n_seeds + 1 + np.arange(len(unseeded))
    return label[tree_of_basin]
