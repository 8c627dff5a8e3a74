"""The small examples of the report, computed by the library: what the text says is what they gave.

Each is a few voxels large, so that every number can be checked by hand.
"""

from types import SimpleNamespace

import numpy as np
from scipy import ndimage

import malis
from malis.affinity import gather_edges
from malis.maximin import maximin_tree

OFFSETS = malis.nearest_offsets(2)
GRID_NAMES = "abcdefghi"


def weak_pixel_example() -> SimpleNamespace:
    """Punch a hole into the membrane of two cells: truth, inside, segments that follow, numbers."""
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
    return SimpleNamespace(truth=truth, inside=inside, segments=segments, numbers=numbers)


def grid_example() -> SimpleNamespace:
    """Count pairs on nine voxels, three objects: the prediction, its counts and its trees."""
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
    arrays = {"labels": labels, "affinities": affinities, "detour": detour, "numbers": numbers}
    counts = {"plain": plain, "constrained": constrained}
    return SimpleNamespace(**arrays, **counts, tree=tree, one_tree=one_tree)
