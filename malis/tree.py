r"""Binary trees as arrays: sums below nodes, products of siblings, and where two leaves meet.

A binary tree with K leaves is its array of parents: nodes 0 ... K-1 are the leaves, K ... 2K-2
the inner nodes, a parent's number is larger than its children's, and the root is its own parent.
This is Higra's form; its sequential accumulations do the sums.

Laid out in depth-first order, the leaves form a line in which every node's leaves are neighbours.
Write between any two neighbouring leaves the number of the node where they meet: the two leaves of
any pair then meet at the largest number between them.

    tree       6           line   0   1   2   3
              / \                    4   6   5
             4   5         e.g. 0 and 3 meet at max(4, 6, 5) = 6
            / \ / \
           0  1 2  3
"""

from itertools import pairwise

import higra as hg
import numpy as np


def node_sums(tree: hg.Tree, leaf_values: np.ndarray) -> np.ndarray:
    """Sum the values of the leaves below every node.

    Parameters
    ----------
    tree : hg.Tree
        Binary, with K leaves.
    leaf_values : (K,) int64 array

    Returns
    -------
    (2K-1,) int64 array
        The values themselves for the leaves.
    """
    return hg.accumulate_sequential(tree, leaf_values, hg.Accumulators.sum)


def sibling_products(parents: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Multiply the sums of the two children of every inner node.

    Parameters
    ----------
    parents : (2K-1,) int64 array
    sums : (2K-1,) int64 array
        From `node_sums`.

    Returns
    -------
    (K-1,) int64 array
    """
    n_leaves = (len(parents) + 1) // 2
    child_sums = sums[_second_child(parents)[n_leaves:]]
    return child_sums * (sums[n_leaves:] - child_sums)


def leaf_line(tree: hg.Tree, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay the leaves out in depth-first order.

    Parameters
    ----------
    tree : hg.Tree
        Binary, with K leaves.
    parents : (2K-1,) int64 array
        Of the same tree.

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
    """Find the maximum of ``values[start:stop]`` for many ranges.

    Two overlapping windows of length 2^k cover any range of 2^k ... 2^(k+1) - 1 values. The windows
    are doubled in length level by level, and each range is answered at its level.

    Parameters
    ----------
    values : (n,) array
    starts, stops : (q,) int64 arrays
        With ``starts < stops``.

    Returns
    -------
    (q,) array

    Notes
    -----
    O(n log n + q) time, O(n) memory: the sparse table of Bender and Farach-Colton (LATIN 2000)
    without storing the table.
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
