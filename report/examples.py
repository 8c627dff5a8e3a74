"""The small examples of the report, computed by the library: what the text says is what they gave.

Each is a few voxels large, so that every number can be checked by hand.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

import malis
from malis.affinity import gather_edges
from malis.maximin import MaximinTree, maximin_tree

OFFSETS = malis.nearest_offsets(2)
GRID_NAMES = "abcdefghi"


class WeakPixelExample(NamedTuple):
    """Two cells, a membrane with a hole, and the segments that follow."""

    truth: np.ndarray
    inside: np.ndarray
    segments: np.ndarray
    numbers: dict[str, Any]


class GridExample(NamedTuple):
    """Nine voxels, three objects, a prediction, and its pair counts."""

    labels: np.ndarray
    affinities: np.ndarray
    plain: tuple[np.ndarray, np.ndarray]
    constrained: tuple[np.ndarray, np.ndarray]
    detour: tuple[int, ...]
    tree: MaximinTree
    one_tree: MaximinTree
    numbers: dict[str, Any]


def weak_pixel_example() -> WeakPixelExample:
    """Punch a hole into the membrane of two cells."""
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
    """Count pairs on nine voxels."""
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
