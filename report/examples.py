"""The small examples of the report, computed by the library: what the text says is what they gave.

Each is a few voxels large, so that every number can be checked by hand.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

import malis
from malis.affinity import gather_edges
from malis.maximin import MaximinTree, maximin_tree
from malis.tensor_backend.boruvka import list_forest
from malis.tensor_backend.merges import kruskal_merges, pair_products, vertex_line

OFFSETS = malis.nearest_offsets(2)
GRID_NAMES = "abcdefghi"
CHAIN_NAMES = "abcdef"
CHAIN = (0.2, 0.9, 0.5, 0.8, 0.7)  # affinities along a row of six voxels
CHAIN_LABELS = (1, 2, 1, 1, 0, 2)


class WeakPixelExample(NamedTuple):
    """Two cells, a membrane with a hole, and the segments that follow.

    Attributes
    ----------
    truth, segments : (y, x) int arrays
    inside : (y, x) bool array
        The prediction.
    numbers : dict
    """

    truth: np.ndarray
    inside: np.ndarray
    segments: np.ndarray
    numbers: dict[str, Any]


class GridExample(NamedTuple):
    """Nine voxels, three objects, a prediction, and its pair counts.

    Attributes
    ----------
    labels : (3, 3) int array
    affinities : (2, 3, 3) float32 array
    plain, constrained : pairs of (2, 3, 3) int64 arrays
        Positive and negative counts.
    detour : tuple of int
        The maximin edge of d and e.
    tree, one_tree : MaximinTree
        Of the affinities as they are, and with boundary edges last.
    numbers : dict
    """

    labels: np.ndarray
    affinities: np.ndarray
    plain: tuple[np.ndarray, np.ndarray]
    constrained: tuple[np.ndarray, np.ndarray]
    detour: tuple[int, ...]
    tree: MaximinTree
    one_tree: MaximinTree
    numbers: dict[str, Any]


def weak_pixel_example() -> WeakPixelExample:
    """Punch a hole into the membrane of two cells.

    Returns
    -------
    WeakPixelExample
    """
    truth = np.ones((40, 60), dtype=np.int64)
    truth[:, 30:] = 2
    membrane = np.zeros(truth.shape, dtype=bool)
    membrane[:, 29:31] = True
    truth[membrane] = 0
    inside = ~membrane
    inside[20, 29:31] = True
    segments = ndimage.label(inside)[0]
    predicted = malis.affinities_from_labels(segments, OFFSETS).astype(np.float32)
    numbers = {
        "pixels": truth.size,
        "wrong_pixels": int((inside == membrane).sum()),
        "pixel_error": float(np.mean(inside == membrane)),
        "rand_error": malis.rand_error(predicted, truth, OFFSETS),
    }
    return WeakPixelExample(truth, inside, segments, numbers)


def grid_example() -> GridExample:
    """Count pairs on nine voxels.

    Returns
    -------
    GridExample
    """
    labels = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 2]])
    affinities = np.array(
        [
            [[0, 0, 0], [0.1, 0.8, 0.7], [0.5, 0.4, 0.95]],
            [[0, 0.9, 0.25], [0, 0.2, 0.3], [0, 0.85, 0.15]],
        ],
        dtype=np.float32,
    )
    offsets = np.array(OFFSETS)
    plain = malis.pair_counts(affinities, labels, OFFSETS, constrained=False)
    constrained = malis.pair_counts(affinities, labels, OFFSETS)
    detour = tuple(map(int, malis.maximin_edges(affinities, OFFSETS, np.array([[3, 4]]))[0]))
    tree = maximin_tree(affinities, offsets)
    boundary = ~gather_edges(malis.affinities_from_labels(labels, OFFSETS), offsets).astype(bool)
    one_tree = maximin_tree(affinities, offsets, late=boundary)
    numbers = {
        "pairs": int(plain[0].sum() + plain[1].sum()),
        "tree_edges": len(tree.edges),
        "detour_affinity": float(affinities[detour]),
        "direct_affinity": float(affinities[1, 1, 1]),
        "detour_positive": int(plain[0][detour]),
        "detour_negative": int(plain[1][detour]),
        "direct_positive": int(constrained[0][1, 1, 1]),
        "constrained_positive": int(constrained[0].sum()),
        "constrained_negative": int(constrained[1].sum()),
        "inner_merges": int((~boundary[one_tree.edges]).sum()),
        "boundary_merges": int(boundary[one_tree.edges].sum()),
    }
    return GridExample(labels, affinities, plain, constrained, detour, tree, one_tree, numbers)


def rounds_example() -> dict[str, Any]:
    """Run Borůvka's rounds on six voxels in a row, and count pairs from them.

    Returns
    -------
    dict
        ``edges``: for each edge its ends, affinity, chain and pair counts; ``line``: the leaf
        line; ``links``: neighbours of one label on it and the affinity where they meet;
        ``rounds``: what every supervertex picks.
    """
    strengths = np.argsort(np.argsort(-np.array(CHAIN)))  # Kruskal's order of the edges
    left = torch.arange(5, dtype=torch.int32)
    codes = torch.tensor(strengths, dtype=torch.int32)
    forest = list_forest(6, left, left + 1, codes)
    merges = kruskal_merges(forest)
    pairs = pair_products(forest, merges, torch.ones(6, dtype=torch.int32))
    names = list(CHAIN_NAMES) + [chr(ord("g") + i) for i in range(len(forest.parent) - 6)]

    positive, negative = malis.pair_counts(
        np.array([[0, *CHAIN]], dtype=np.float32),
        np.array(CHAIN_LABELS),
        [(-1,)],
        constrained=False,
    )
    edges = [
        {
            "rank": int(merges.ranks[place]),
            "ends": f"{CHAIN_NAMES[number]}–{CHAIN_NAMES[number + 1]}",
            "affinity": CHAIN[number],
            "chain": names[int(merges.chains[place])],
            "pairs": int(pairs[place]),
            "positive": int(positive[0, number + 1]),
            "negative": int(negative[0, number + 1]),
        }
        for place, number in enumerate(merges.numbers.tolist())
    ]
    rounds = [
        {
            "members": "".join(names[v] for v in range(s) if forest.parent[v] == s),
            "name": names[s],
            "picks": None
            if forest.far[s] == s
            else int(strengths[int(forest.key[s]) & (2**32 - 1)]),
        }
        for s in range(len(names))
    ]
    line = vertex_line(forest, merges).tolist()
    links = []
    for label in sorted({*CHAIN_LABELS} - {0}):
        leaves = [voxel for voxel in line if CHAIN_LABELS[voxel] == label]
        for one, other in pairwise(leaves):
            edge = malis.maximin_edges(
                np.array([[0, *CHAIN]], dtype=np.float32), [(-1,)], np.array([[one, other]])
            )[0]
            links.append(
                {
                    "label": label,
                    "ends": CHAIN_NAMES[one] + CHAIN_NAMES[other],
                    "affinity": CHAIN[int(edge[1]) - 1],
                }
            )
    return {
        "edges": sorted(edges, key=lambda edge: edge["rank"]),
        "rounds": rounds,
        "firsts": forest.firsts,
        "line": "".join(CHAIN_NAMES[voxel] for voxel in line),
        "links": links,
        "pairs": int(pairs.sum()),
    }
