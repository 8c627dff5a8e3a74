"""The colours of all figures: of objects, of truth and found, of methods.

Objects keep their colour from figure to figure, because it is a function of their id alone. Kinds
are told apart by lightness and dash as well as by hue, so that prints in grey and colour-blind
readers lose nothing.
"""

import numpy as np
from matplotlib.colors import hsv_to_rgb

GOLDEN_RATIO = 0.618033988749895
# Of Okabe and Ito, told apart by the colour-blind, but grey for their yellow.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#D55E00", "#56B4E9", "#000000", "#999999"),
)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)))
TRUTH, FOUND = "#56B4E9", "#E69F00"


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Give every object its colour, background black.

    Parameters
    ----------
    labels : (y, x) integer array
        Object ids, 0 = background.

    Returns
    -------
    (y, x, 3) float array
        In [0, 1].
    """
    ids, where = np.unique(labels, return_inverse=True)
    hue = (ids.astype(np.float64) % 2**20 * GOLDEN_RATIO) % 1
    lightness = np.array([1.0, 0.8, 0.9])[(ids % 3).astype(int)]
    saturation = np.array([0.45, 0.65])[(ids % 2).astype(int)]
    colours = hsv_to_rgb(np.stack([hue, saturation, lightness], axis=-1))
    colours[ids == 0] = 0
    return colours[where.reshape(labels.shape)]


def match_labels(segments: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Renumber segments so that each has the colour of the true object that it matches.

    Of the segments that overlap an object most, the largest overlap gets the object's id. All other
    segments get ids that the truth does not have.

    Parameters
    ----------
    segments, truth : (*spatial) integer arrays
        0 = background.

    Returns
    -------
    (*spatial) int64 array
        The same segments; background stays 0.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if segments.shape != truth.shape:
        raise ValueError(f"segments have shape {segments.shape}, the truth {truth.shape}")
    ids, found = np.unique(segments, return_inverse=True)
    objects, true = np.unique(truth, return_inverse=True)
    pairs, sizes = np.unique(found.ravel() * len(objects) + true.ravel(), return_counts=True)
    new = np.zeros(len(ids), dtype=np.int64)
    taken = set()
    for pair in pairs[np.argsort(-sizes, kind="stable")]:
        segment, match = divmod(int(pair), len(objects))
        if ids[segment] and objects[match] and not new[segment] and match not in taken:
            new[segment] = objects[match]
            taken.add(match)
    alone = (new == 0) & (ids != 0)
    new[alone] = int(objects.max()) + 1 + np.arange(alone.sum())
    return new[found].reshape(segments.shape)
