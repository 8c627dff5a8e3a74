r"""Pair counts: how many pairs of voxels every edge decides.

When Kruskal's algorithm joins two regions A and B by an edge e, e becomes the maximin edge of all
``|A| |B|`` pairs across. Of these, ``positive(e)`` have the same label and ``negative(e)`` have two
different ones; pairs with a background voxel are not counted. Summed over all edges of the maximin
tree, every pair of voxels is counted exactly once.

The *constrained* counts (Funke et al. 2019) look at two altered graphs: for the positive counts,
edges on a boundary of the ground truth get affinity 0; for the negative counts, edges inside an
object get affinity 1. Both live in one tree if all inner edges are taken first, by descending
affinity, and then all boundary edges, by descending affinity:

- its inner merges are the positive pass, where the boundary edges wait at affinity 0. Both
  regions carry one label, so ``positive = |A| |B|`` needs no look at the labels;
- its boundary merges are the negative pass, where the inner edges are done first at affinity 1.
  They join whole objects, so the labels of a few hundred regions decide.

Edges of unknown ground truth keep their predicted affinity in both passes. Then the passes differ,
and each gets a tree of its own.

**Pairs of one label, for any number of labels.** List the leaves of one label in depth-first order.
The nodes where its leaves meet are exactly the lowest common ancestors of neighbours in that list,
so a small second tree over the list, merged in the order of those nodes, counts the label's pairs.
All labels share one such tree; no table of nodes times labels is needed.

This chapter counts with Higra's trees and is the one to read. `malis.compiled` and
`malis.tensor_backend` count the same integers faster, and are used where they can be.
"""

import higra as hg
import numpy as np

from malis._checks import (
    Array,
    Checked,
    Offsets,
    as_numpy,
    check_offsets,
    check_prediction,
    choose_backend,
    like,
)
from malis.affinity import gather_edges, locate_edges, same_object, scatter_edges
from malis.labels import number_labels
from malis.maximin import (
    MaximinTree,
    leaf_line,
    maximin_tree,
    node_sums,
    range_maxima,
    sibling_products,
)


def pair_counts(
    affinities: Array,
    labels: Array,
    offsets: Offsets,
    *,
    constrained: bool = True,
    edge_mask: Array | None = None,
    labelled_mask: Array | None = None,
    from_logits: bool = False,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Count the voxel pairs that every edge decides.

    An edge of the maximin tree decides the pairs on whose maximin path it is the weakest link.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) float array or tensor
        Predicted affinities in [0, 1]; channel c joins voxel v and v + offsets[c]. Compared as
        float32.
    labels : ([B,] *spatial) integer array or tensor
        Object ids, 0 = background; ids up to 2^64-1.
    offsets : (C, ndim) integers
    constrained : bool
        Count in the two constrained passes of Funke et al.; otherwise once, in the tree of the
        affinities as they are (Turaga et al.).
    edge_mask : ([B,] C, *spatial) array or tensor, optional
        1 = known, 0 = unknown: such an edge is not constrained and its counts are 0.
    labelled_mask : ([B,] *spatial) array or tensor, optional
        1 = labelled, 0 = not: those voxels form one further object with unknown inner edges.
    from_logits : bool
        Whether `affinities` are logits instead, any finite numbers: what a network puts out before
        the sigmoid. Only their order counts, also where the sigmoid would round them to 0 or 1.
    backend : {"auto", "higra", "numba", "parallel"}
        How the trees are built, with the same result: one edge after the other on the host, by
        Higra or in compiled loops (`malis.compiled`; needs the extra "fast"), or as tensor
        operations on the device of the affinities (`malis.tensor_backend`). "auto" is "parallel" on
        a CUDA device and "numba" on a CPU. Without Numba, it is "parallel" for constrained counts
        without masks if samples have at least 2^19 voxels or are many and small, where that is
        faster than Higra on a CPU, too; else "higra".

    Returns
    -------
    positive, negative : ([B,] C, *spatial) int64 arrays or tensors
        Pairs of one object and pairs of two objects that the edge decides; 0 on edges that leave
        the volume. Constrained positive counts are 0 on boundary edges, negative ones on inner
        edges.

    Raises
    ------
    ValueError
        If shapes disagree or are empty, an affinity is not finite or not in [0, 1], a label is
        negative, an offset is zero, or the backend is unknown. With the backend "parallel" also for
        2^29 voxels or 2^31 edges in a batch, or more; with "numba" for 2^31 voxels or 2^32 edges in
        a sample, or more.
    TypeError
        If affinities are not floating-point numbers, or labels or offsets not integers.
    ModuleNotFoundError
        If the backend is "numba" and Numba is not installed.

    Notes
    -----
    Ties of affinities fall to the lower edge number (channel by channel, C order within a channel).
    The result is exact for every volume with fewer than 2^32 voxels.

    References
    ----------
    Turaga et al., NIPS 2009, section 3; Funke et al., IEEE TPAMI 41(7), 2019, section 3.2.

    Examples
    --------
    Three voxels in a row, two objects: the weak edge decides both pairs across the boundary.

    >>> affinities = np.array([[0, 0.9, 0.3]], dtype=np.float32)
    >>> positive, negative = pair_counts(affinities, np.array([7, 7, 8]), [(-1,)])
    >>> positive, negative
    (array([[0, 1, 0]]), array([[0, 0, 2]]))
    """
    offsets = check_offsets(offsets)
    arguments = affinities, labels, offsets, edge_mask, labelled_mask
    checked = check_prediction(*arguments, from_logits=from_logits)
    counts = count_pairs(checked, offsets, constrained, backend)
    return like(counts[0], affinities), like(counts[1], affinities)


def count_pairs(
    checked: Checked, offsets: np.ndarray, constrained: bool = True, backend: str = "auto"
) -> tuple[Array, Array]:
    """Choose a backend, and count with it; the counts stay where they were made."""
    values, _, *masks = checked
    general = not constrained or any(mask is not None for mask in masks)
    backend = choose_backend(backend, values, offsets, general=general)
    if backend == "parallel":
        from malis.tensor_backend import parallel_pair_counts

        return parallel_pair_counts(checked, offsets, constrained)
    arrays = [None if part is None else as_numpy(part) for part in checked]
    if backend == "numba":
        from malis.compiled import compiled_pair_counts

        return compiled_pair_counts(*arrays, offsets, constrained)
    if values.ndim == offsets.shape[1] + 1:
        return _higra_pair_counts(*arrays, offsets, constrained)
    samples = zip(*([None] * len(values) if part is None else part for part in arrays), strict=True)
    counts = [_higra_pair_counts(*sample, offsets, constrained) for sample in samples]
    return tuple(np.stack(volumes) for volumes in zip(*counts, strict=True))


def rand_error(
    affinities: Array, labels: Array, offsets: Offsets, *, threshold: float = 0.5
) -> float:
    r"""Compute the Rand error of thresholding, from unconstrained pair counts alone.

    Two voxels are in one connected component of the edges with :math:`a_e \ge t` exactly if their
    maximin affinity is at least t. So the fraction of voxel pairs that this segmentation gets
    wrong is

    .. math:: \Big(\sum_{e: a_e < t} w^+_e + \sum_{e: a_e \ge t} w^-_e\Big) \Big/ \tfrac{N(N-1)}{2}

    for N voxels that are not background. MALIS minimises this, with a smooth loss in place of the
    threshold.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Predicted affinities in [0, 1].
    labels : (*spatial) integer array or tensor
        Object ids, 0 = background.
    offsets : (C, ndim) integers
    threshold : float
        Edges with at least this affinity hold their voxels together; compared as float32, like
        `malis.segmentation.connected_components` does.

    Returns
    -------
    float
        In [0, 1]; 1 minus the Rand index. 0 where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `pair_counts`.

    References
    ----------
    Turaga et al., NIPS 2009, section 2.
    """
    offsets = check_offsets(offsets)
    checked = check_prediction(affinities, labels, offsets, batched=False)
    positive, negative = map(as_numpy, count_pairs(checked, offsets, constrained=False))
    joined = as_numpy(checked.values) >= np.float32(threshold)
    n_same, n_pairs = count_label_pairs(as_numpy(labels))
    wrong = n_same - int(positive[joined].sum()) + int(negative[joined].sum())
    return wrong / n_pairs if n_pairs else 0.0


def count_label_pairs(labels: np.ndarray) -> tuple[int, int]:
    """Count the pairs of one object, and all pairs, among the voxels that are not background."""
    sizes = np.unique(labels[labels != 0], return_counts=True)[1]
    total = int(sizes.sum())
    return int((sizes * (sizes - 1) // 2).sum()), total * (total - 1) // 2


def _higra_pair_counts(
    values: np.ndarray,
    labels: np.ndarray,
    edge_mask: np.ndarray | None,
    labelled_mask: np.ndarray | None,
    offsets: np.ndarray,
    constrained: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Count one sample's pairs, by the simplest way that its masks allow."""
    known = np.ones(values.shape, dtype=bool) if edge_mask is None else edge_mask
    if labelled_mask is not None and not labelled_mask.all():
        labels, ids = number_labels(labels)
        labels = np.where(labelled_mask, labels, len(ids) + 1)
        known = known & ~same_object(~labelled_mask, offsets)
    inner_edges = gather_edges(same_object(labels, offsets), offsets)  # (E,), like all below
    known_edges = gather_edges(known, offsets)
    if not constrained:
        positive, negative = _unconstrained_counts(values, labels, offsets)
        positive[~known_edges], negative[~known_edges] = 0, 0
    elif known_edges.all():
        positive, negative = _constrained_counts(values, labels, offsets, inner_edges)
    else:
        positive, negative = _masked_counts(values, labels, offsets, inner_edges, known_edges)
    shape = values.shape[1:]
    return scatter_edges(positive, shape, offsets), scatter_edges(negative, shape, offsets)


def _constrained_counts(
    values: np.ndarray, labels: np.ndarray, offsets: np.ndarray, inner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both passes from one tree: inner merges are the positive, boundary merges the negative."""
    tree = maximin_tree(values, offsets, late=~inner)
    n_inner = _count_merges(tree, inner)
    sizes = node_sums(hg.Tree(tree.parents), np.ones(tree.n_voxels, np.int64))
    positive, negative = np.zeros((2, tree.n_edges), dtype=np.int64)
    positive[tree.edges[:n_inner]] = sibling_products(tree.parents, sizes)[:n_inner]
    different = _boundary_pairs(tree, n_inner, sizes, labels, offsets)
    _assign(negative, tree.edges[n_inner:], different)
    return positive, negative


def _masked_counts(
    values: np.ndarray,
    labels: np.ndarray,
    offsets: np.ndarray,
    inner: np.ndarray,
    known: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Two passes, two trees: unknown edges keep their predicted affinity in both."""
    positive, negative = np.zeros((2, len(inner)), dtype=np.int64)

    tree = maximin_tree(values, offsets, late=known & ~inner)
    same, _ = _leaf_pairs(tree.parents, labels.ravel(), np.ones(tree.n_voxels, np.int64))
    _assign(positive, tree.edges, same)
    positive[~(known & inner)] = 0

    tree = maximin_tree(values, offsets, late=~(known & inner))
    n_inner = _count_merges(tree, known & inner)
    sizes = node_sums(hg.Tree(tree.parents), np.ones(tree.n_voxels, np.int64))
    different = _boundary_pairs(tree, n_inner, sizes, labels, offsets)
    _assign(negative, tree.edges[n_inner:], different)
    negative[~known] = 0
    return positive, negative


def _unconstrained_counts(
    values: np.ndarray, labels: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count all pairs in the tree of the affinities as they are."""
    tree = maximin_tree(values, offsets)
    same, different = _leaf_pairs(tree.parents, labels.ravel(), np.ones(tree.n_voxels, np.int64))
    positive, negative = np.zeros((2, tree.n_edges), dtype=np.int64)
    _assign(positive, tree.edges, same)
    _assign(negative, tree.edges, different)
    return positive, negative


def _boundary_pairs(
    tree: MaximinTree, n_inner: int, sizes: np.ndarray, labels: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Pairs of different labels at every merge after the first `n_inner`.

    The first `n_inner` merges stay within an object each, so every region that they leave carries
    one label; the later merges are a small tree with those regions for leaves.
    """
    n_voxels = tree.n_voxels
    first = n_voxels + n_inner  # the first node that is not within one object
    if first == len(tree.parents):
        return np.zeros(0, dtype=np.int64)
    regions = np.flatnonzero(tree.parents[:first] >= first)
    parents = np.concatenate([tree.parents[regions], tree.parents[first:]]) - first + len(regions)
    region_labels = np.empty(len(regions), dtype=labels.dtype)
    single = regions < n_voxels
    region_labels[single] = labels.ravel()[regions[single]]
    # Both ends of an inner edge carry the label of the region that it made.
    owners = locate_edges(tree.edges[regions[~single] - n_voxels], labels.shape, offsets)[:, 1:]
    region_labels[~single] = labels[tuple(owners.T)]
    return _leaf_pairs(parents, region_labels, sizes[regions])[1]


def _leaf_pairs(
    parents: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count the pairs of voxels that meet at every inner node of a binary tree.

    Its leaves are nodes 0 ... K-1. Each has a label, 0 if it is in no pair, and a weight: its
    number of voxels. Return the (K-1,) int64 pairs of one label, and those of two.
    """
    n_leaves = len(labels)
    same = np.zeros(n_leaves - 1, dtype=np.int64)
    if n_leaves == 1:
        return same, same.copy()
    tree = hg.Tree(parents)
    pairs = sibling_products(parents, node_sums(tree, np.where(labels != 0, weights, 0)))

    # Leaves by label, and along the line within a label; background is left out.
    position, meets = leaf_line(tree, parents)
    leaves = np.empty(n_leaves, dtype=np.int64)
    leaves[position] = np.arange(n_leaves)
    leaves = leaves[labels[leaves] != 0]
    leaves = leaves[np.argsort(labels[leaves], kind="stable")]
    linked = labels[leaves[1:]] == labels[leaves[:-1]]
    links = np.flatnonzero(linked)
    if len(links) == 0:
        return same, pairs
    places = position[leaves]
    nodes = range_maxima(meets, places[links], places[links + 1])

    # A chain of those leaves, merged in the order of the nodes where neighbours meet: one tree for
    # all labels. Links between two labels come last and count nothing.
    by_node = np.argsort(nodes, kind="stable")
    chain = np.arange(len(leaves) - 1)
    small = hg.bpt_canonical(
        (chain, chain + 1, len(leaves)),
        sorted_edge_indices=np.concatenate([links[by_node], np.flatnonzero(~linked)]),
        return_altitudes=False,
        compute_mst=False,
    )
    products = sibling_products(small.parents(), node_sums(small, weights[leaves]))
    np.add.at(same, nodes[by_node] - n_leaves, products[: len(links)])
    return same, pairs - same


def _count_merges(tree: MaximinTree, early: np.ndarray) -> int:
    """Count the merges that the `early` edges made; they are the first ones."""
    edges = tree.edges[tree.edges < tree.n_edges]
    return int(early[edges].sum())


def _assign(counts: np.ndarray, edges: np.ndarray, values: np.ndarray) -> None:
    """Write the counts of merges to their edges; merges between pieces of the graph have none."""
    exists = edges < len(counts)
    counts[edges[exists]] = values[exists]
