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
from scipy import sparse

from malis.maximin import merge_order
from malis.segmentation.grid import Edges
from malis.segmentation.regions import group_by_pair


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
    peak, has_open_edge = _peaks(heights, seeds, edges, is_open)
    roots = np.flatnonzero(peak == np.arange(peak.size, dtype=peak.dtype))
    number = np.empty(peak.size, dtype=np.int32)
    number[roots] = np.arange(len(roots), dtype=np.int32)
    basins = number[peak].reshape(heights.shape)

    seed_voxels = np.flatnonzero(seeds)
    seed_basins = basins.ravel()[seed_voxels]
    # Closed edges matter only to voxels that have no other.
    last_resort = [
        ~(passable | (has_open_edge[near] & has_open_edge[far]))
        for passable, (_, near, far) in zip(is_open, edges, strict=True)
    ]
    label = _join_basins(
        len(roots),
        seed_basins,
        seeds.ravel()[seed_voxels],
        _passes(heights, basins, edges, is_open),
        np.flatnonzero(has_open_edge.ravel()[roots]),
        _passes(heights, basins, edges, last_resort),
    )
    return label[basins]


def _peaks(
    heights: np.ndarray, seeds: np.ndarray, edges: list[Edges], is_open: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Follow the steepest way up from every voxel; mark voxels with an open edge."""
    dtype = np.int32 if heights.size < 2**31 else np.int64
    voxels = np.arange(heights.size, dtype=dtype).reshape(heights.shape)
    uphill, best = voxels.copy(), heights.copy()
    has_open_edge = np.zeros(heights.shape, dtype=bool)
    for (_, near, far), passable in zip(edges, is_open, strict=True):
        for here, there in ((near, far), (far, near)):
            has_open_edge[here] |= passable
            higher = passable & (heights[there] > best[here])
            np.copyto(best[here], heights[there], where=higher)
            np.copyto(uphill[here], voxels[there], where=higher)
    uphill = uphill.ravel()
    seed_voxels = np.flatnonzero(seeds)
    uphill[seed_voxels] = seed_voxels
    while True:
        further = uphill[uphill]  # paths double in length
        if np.array_equal(further, uphill):
            return uphill, has_open_edge
        uphill = further


def _passes(
    heights: np.ndarray, basins: np.ndarray, edges: list[Edges], taken: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the highest edge between any two basins; return their ends, the highest first."""
    n_basins = int(basins.max()) + 1
    pairs, weights = [np.zeros((2, 0), np.int32)], [np.zeros(0, np.float32)]
    for (_, near, far), mask in zip(edges, taken, strict=True):
        if not mask.any():
            continue
        crossing = mask & (basins[near] != basins[far])
        ends = basins[near][crossing], basins[far][crossing]
        pairs.append(np.stack([np.minimum(*ends), np.maximum(*ends)]))
        weights.append(np.minimum(heights[near][crossing], heights[far][crossing]))
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
    ends = [
        seed_basins,
        open_passes[1],
        reachable,
        closed_passes[1],
        np.arange(n_basins),
    ]
    starts = [
        np.full(len(seed_basins), n_basins),
        open_passes[0],
        np.full(len(reachable), n_basins),
        closed_passes[0],
        np.full(n_basins, n_basins),
    ]
    first = np.cumsum([0, *map(len, ends)])
    start, end = (np.concatenate(part).astype(np.int64) for part in (starts, ends))
    tree = hg.bpt_canonical(
        (start, end, n_basins + 1),
        sorted_edge_indices=np.arange(len(start)),
        return_altitudes=False,
        compute_mst=False,
    )
    chosen = tree.mst_edge_map
    tied = start[chosen] == n_basins
    joined = chosen[~tied]
    forest = sparse.coo_array(
        (np.ones(len(joined), bool), (start[joined], end[joined])), (n_basins, n_basins)
    )
    n_trees, tree_of_basin = sparse.csgraph.connected_components(forest, directed=False)
    label = np.zeros(n_trees, dtype=np.int32)
    label[tree_of_basin[seed_basins]] = seed_labels
    own = chosen[tied & (chosen >= first[2]) & (chosen < first[3])]
    n_seeds = int(seed_labels.max(initial=0))
    label[tree_of_basin[end[own]]] = n_seeds + 1 + np.arange(len(own))
    return label[tree_of_basin]
