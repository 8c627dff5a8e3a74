r"""The maximin tree: which edge is the weakest link between two voxels.

A path is as strong as its weakest edge; the *maximin path* of two voxels is the strongest path
between them, and its weakest edge is their *maximin edge*. Raise that affinity and the two voxels
hold together at a higher threshold; lower it and they come apart. No other edge matters to them.

Add the edges to an empty graph from the strongest to the weakest (Kruskal's algorithm). The edge
that first joins the region of u to the region of v is the maximin edge of u and v. Edges that join
two regions form a maximum spanning tree; the order in which regions merge is a second, binary tree
over them. Higra calls it the canonical binary partition tree (``bpt_canonical``): voxels are its
leaves, every inner node is one merge and knows the edge that made it. The maximin edge of a pair is
the edge of the pair's lowest common ancestor.

Cost: one sort, and a quasi-linear pass over the edges.

**Trees as arrays.** A binary tree with K leaves is its array of parents: nodes 0 ... K-1 are the
leaves, K ... 2K-2 the inner nodes, a parent's number is larger than its children's, and the root is
its own parent. This is Higra's form; its sequential accumulations do the sums. Laid out in
depth-first order, the leaves form a line in which every node's leaves are neighbours. Write between
any two neighbouring leaves the number of the node where they meet: the two leaves of any pair then
meet at the largest number between them.

    tree       6           line   0   1   2   3
              / \                    4   6   5
             4   5         e.g. 0 and 3 meet at max(4, 6, 5) = 6
            / \ / \
           0  1 2  3
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import higra as hg
import numpy as np

from malis._checks import (
    Array,
    Offsets,
    as_numpy,
    check_affinities,
    check_offsets,
    choose_backend,
    like,
)
from malis.affinity import gather_edges, grid_edges, locate_edges


@dataclass(frozen=True)
class MaximinTree:
    """The merges of Kruskal's algorithm on N voxels, as a binary tree.

    Nodes 0 ... N-1 are the voxels (C order), nodes N ... 2N-2 the merges in the order in which they
    happen; a parent's number is larger than its children's.

    Parameters
    ----------
    parents : (2N-1,) int64 array
        Parent of every node; the root, the last node, is its own parent.
    edges : (N-1,) int64 array
        The edge that made merge ``N + i``, numbered as in `malis.affinity.grid_edges`. Numbers from
        `n_edges` on are not edges of the grid: they join the pieces of an unconnected graph.
    n_edges : int
        Number of edges of the grid graph.
    """

    parents: np.ndarray
    edges: np.ndarray
    n_edges: int

    @property
    def n_voxels(self) -> int:
        """Number of leaves."""
        return len(self.edges) + 1


def maximin_tree(
    affinities: np.ndarray, offsets: np.ndarray, late: np.ndarray | None = None
) -> MaximinTree:
    """Build the maximin tree of a grid graph from finite (C, *spatial) float32 affinities.

    Edges are taken with those not `late`, (E,) booleans, first, then by descending affinity, then
    by ascending edge number: a total order, so that ties are broken the same way everywhere.
    """
    shape = affinities.shape[1:]
    order = merge_order(gather_edges(affinities, offsets), late)
    sources, targets = grid_edges(shape, offsets)
    n_voxels, n_edges = int(np.prod(shape)), len(order)
    if n_voxels == 1:
        return MaximinTree(np.zeros(1, np.int64), np.zeros(0, np.int64), n_edges)
    if not _surely_connected(shape, offsets):
        # Higra wants a connected graph: a chain through all voxels, taken last, makes it one.
        chain = np.arange(n_voxels - 1)
        sources = np.concatenate([sources, chain])
        targets = np.concatenate([targets, chain + 1])
        order = np.concatenate([order, np.arange(n_edges, len(sources))])
    tree = hg.bpt_canonical(
        (sources, targets, n_voxels),
        sorted_edge_indices=order,
        return_altitudes=False,
        compute_mst=False,
    )
    return MaximinTree(tree.parents(), tree.mst_edge_map, n_edges)


def merge_order(values: np.ndarray, late: np.ndarray | None = None) -> np.ndarray:
    """Sort edges: not late before late, then descending float32 value, then ascending position.

    The bits of floats, read as integers, sort like their sizes; two stable passes over 16-bit
    halves (a radix sort in NumPy) are faster than a comparison sort.
    """
    bits = (values + np.float32(0)).view(np.int32)  # -0.0 became 0.0
    # From 1 down to 0 are the codes of positive numbers; negative ones, with a sign bit, follow.
    bits ^= ~(bits >> 31) & np.int32(0x7FFFFFFF)
    low, high = bits.astype(np.uint16), (bits.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    order = np.argsort(low, kind="stable")
    order = order[np.argsort(high[order], kind="stable")]
    if late is None:
        return order
    waits = late[order]
    return np.concatenate([np.compress(~waits, order), np.compress(waits, order)])


def maximin_edges(
    affinities: Array,
    offsets: Offsets,
    pairs: Array,
    *,
    from_logits: bool = False,
    backend: str = "auto",
) -> Array:
    """Find the maximin edge of voxel pairs.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Predicted affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
    pairs : (P, 2) or (P, 2, ndim) integers
        The two voxels of each pair, as flat C-order indices or as coordinates.
    from_logits : bool
        See `malis.pair_counts`.
    backend : {"auto", "higra", "numba", "parallel"}
        See `malis.pair_counts`.

    Returns
    -------
    (P, 1 + ndim) int64 array or tensor
        Channel and voxel of each pair's maximin edge, so that
        ``affinities[tuple(edges.T)]`` are the maximin affinities; rows of -1 for pairs that no path
        joins (a graph in several pieces).

    Raises
    ------
    ValueError
        If shapes disagree, a voxel lies outside the volume, a pair is one voxel twice, or an
        affinity is not finite or not in [0, 1], or the backend is unknown.
    TypeError
        If pairs or offsets are not integers.

    References
    ----------
    Turaga et al., NIPS 2009, section 3.

    Examples
    --------
    >>> affinities = np.array([[0, 0.9, 0.2, 0.7]], dtype=np.float32)  # a chain of four voxels
    >>> maximin_edges(affinities, [(-1,)], np.array([[0, 3], [2, 3]]))
    array([[0, 2],
           [0, 3]])
    """
    offsets = check_offsets(offsets)
    values = check_affinities(affinities, offsets, batched=False, from_logits=from_logits)
    flat = _flat_pairs(pairs, values.shape[1:])
    backend = choose_backend(backend, values, offsets)
    if backend == "parallel":
        from malis.tensor_backend import as_tensor, parallel_maximin_edges

        values = as_tensor(values)[None]
        edges = parallel_maximin_edges(values, offsets, as_tensor(flat).to(values.device))
        return like(edges[:, 1:], affinities)
    return like(host_edges(as_numpy(values), offsets, flat, backend), affinities)


def host_edges(
    values: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, backend: str
) -> np.ndarray:
    """Find the maximin edges of (P, 2) flat voxel indices on the host; see `maximin_edges`."""
    if backend == "numba":
        from malis.compiled import compiled_maximin_edges

        return compiled_maximin_edges(values, offsets, pairs)
    shape = values.shape[1:]
    edges = np.full((len(pairs), 1 + len(shape)), -1, dtype=np.int64)
    if len(pairs):
        tree = maximin_tree(values, offsets)
        position, meets = leaf_line(hg.Tree(tree.parents), tree.parents)
        places = np.sort(position[pairs], axis=1)
        found = tree.edges[range_maxima(meets, places[:, 0], places[:, 1]) - tree.n_voxels]
        joined = found < tree.n_edges
        edges[joined] = locate_edges(found[joined], shape, offsets)
    return edges


def node_sums(tree: hg.Tree, leaf_values: np.ndarray) -> np.ndarray:
    """Sum the (K,) int64 values of the leaves below each of the 2K-1 nodes of a binary tree."""
    return hg.accumulate_sequential(tree, leaf_values, hg.Accumulators.sum)


def sibling_products(parents: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Multiply the sums, from `node_sums`, of the two children of each of the K-1 inner nodes."""
    n_leaves = (len(parents) + 1) // 2
    child_sums = sums[_second_child(parents)[n_leaves:]]
    return child_sums * (sums[n_leaves:] - child_sums)


def leaf_line(tree: hg.Tree, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay the K leaves of a binary tree, whose parents are given too, out in depth-first order.

    Returns
    -------
    position : (K,) int64 array
        Place of every leaf in the line.
    meets : (K-1,) int64 array
        Node where the leaves at places i and i + 1 meet.
    """
    n_leaves = (len(parents) + 1) // 2
    sizes = node_sums(tree, np.ones(n_leaves, dtype=np.int64))
    second = _second_child(parents)[n_leaves:]
    # A second child starts after all leaves of its sibling, a first child where its parent starts.
    shift = np.zeros(len(parents), dtype=np.int64)
    shift[second] = sizes[n_leaves:] - sizes[second]
    position = hg.propagate_sequential_and_accumulate(tree, shift, hg.Accumulators.sum)
    meets = np.empty(n_leaves - 1, dtype=np.int64)
    meets[position[second] - 1] = np.arange(n_leaves, len(parents))
    return position[:n_leaves], meets


def range_maxima(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Find the maximum of ``values[start:stop]`` for many ranges, none of them empty.

    Two overlapping windows of length 2^k cover any range of 2^k ... 2^(k+1) - 1 values. The windows
    are doubled in length level by level, and each range is answered at its level: the sparse table
    of Bender and Farach-Colton (LATIN 2000) without storing the table. O(n log n + q) time for q
    ranges, O(n) memory.
    """
    result = np.empty(len(starts), dtype=values.dtype)
    if len(starts) == 0:
        return result
    levels = np.frexp((stops - starts).astype(np.float64))[1].astype(np.uint8) - 1
    order = np.argsort(levels, kind="stable")
    bounds = np.searchsorted(levels[order], np.arange(levels.max() + 2))
    windows = values
    for level, (begin, end) in enumerate(pairwise(bounds)):
        own = order[begin:end]
        width = 1 << level
        result[own] = np.maximum(windows[starts[own]], windows[stops[own] - width])
        windows = np.maximum(windows[:-width], windows[width:])
    return result


def _second_child(parents: np.ndarray) -> np.ndarray:
    """Return the child with the larger number, for every inner node; undefined for leaves."""
    child = np.zeros(len(parents), dtype=np.int64)
    child[parents[:-1]] = np.arange(len(parents) - 1)  # the last one written stays
    return child


def _surely_connected(shape: Sequence[int], offsets: np.ndarray) -> bool:
    """Whether unit steps along every axis longer than one voxel are among the offsets."""
    unit = offsets[np.abs(offsets).sum(axis=1) == 1]
    return all(size == 1 or unit[:, axis].any() for axis, size in enumerate(shape))


def _flat_pairs(pairs: Array, shape: Sequence[int]) -> np.ndarray:
    """Check pairs and return them as a (P, 2) array of flat voxel indices."""
    pairs = as_numpy(pairs)
    if not np.issubdtype(pairs.dtype, np.integer):
        raise TypeError(f"pairs must be integers, got {pairs.dtype}")
    if pairs.shape[1:] == (2, len(shape)):
        limits = np.array(shape)
        if ((pairs < 0) | (pairs >= limits)).any():
            raise ValueError(f"pairs hold a voxel outside the volume of shape {tuple(shape)}")
        pairs = np.ravel_multi_index(tuple(np.moveaxis(pairs, -1, 0)), tuple(shape))
    elif pairs.shape[1:] != (2,):
        raise ValueError(f"pairs must have shape (P, 2) or (P, 2, {len(shape)}), got {pairs.shape}")
    pairs = pairs.astype(np.int64)
    n_voxels = int(np.prod(shape))
    if ((pairs < 0) | (pairs >= n_voxels)).any():
        raise ValueError(f"pairs hold a voxel outside the volume of {n_voxels} voxels")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError("a pair must be two different voxels")
    return pairs
