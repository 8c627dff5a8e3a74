"""Small examples of what goes wrong, whose every number can be read off a picture."""

from typing import NamedTuple

import numpy as np


class WeakPixel(NamedTuple):
    """Two cells whose membrane has one weak pixel.

    Attributes
    ----------
    affinities : (2, height, width) float32 array
        For `malis.nearest_offsets(2)`.
    labels : (height, width) uint64 array
        The two cells; the membrane belongs to the cell on its left.
    weak : (int, int)
        Row and column of the weak pixel.
    """

    affinities: np.ndarray
    labels: np.ndarray
    weak: tuple[int, int]


class SameTree(NamedTuple):
    """Two predictions that differ in many edges and have the same maximum spanning tree.

    Attributes
    ----------
    agreeing : (2, height, width) float32 array
        Affinities for `malis.nearest_offsets(2)`: inside the objects, both channels are high.
    disagreeing : (2, height, width) float32 array
        The same along y; along x almost every edge inside the objects is 0.05.
    in_tree : (2, height, width) bool array
        The edges of the maximum spanning tree, the same in both, with the same affinities.
    labels : (height, width) uint64 array
        The two objects.
    """

    agreeing: np.ndarray
    disagreeing: np.ndarray
    in_tree: np.ndarray
    labels: np.ndarray


def weak_pixel_leak(height: int = 15, width: int = 21) -> WeakPixel:
    """Make two cells that a threshold merges through one weak pixel.

    A membrane three pixels thick stands between the cells. Across one pixel row it is weak:
    affinities of 0.8 instead of 0.1. At every threshold up to 0.8 the two cells are one connected
    component, and so they are for a watershed on the thresholded average. The mean affinity of the
    whole membrane is hardly changed: agglomeration keeps the cells apart. A ValueError for fewer
    than 7 x 11 pixels.
    """
    if height < 7 or width < 11:
        raise ValueError(f"height and width must be at least 7 and 11, got {height} and {width}")
    middle, row = width // 2, height // 2
    affinities = np.full((2, height, width), 0.95, dtype=np.float32)
    membrane = slice(middle - 1, middle + 2)
    affinities[:, :, membrane] = 0.1
    affinities[1, :, middle + 2] = 0.1  # the edge from the cell on the right to the membrane
    affinities[1, row, middle - 1 : middle + 3] = 0.8
    affinities[0, row : row + 2, membrane] = 0.8
    labels = np.full((height, width), 1, dtype=np.uint64)
    labels[:, middle + 1 :] = 2
    return WeakPixel(affinities, labels, (row, middle))


def same_tree_different_channels(height: int = 6, width: int = 8) -> SameTree:
    """Make two predictions that MALIS cannot tell apart, although one is wrong almost everywhere.

    The maximum spanning tree is a comb: every column is joined along y (0.9), and the columns are
    joined along x in the first row only (0.8; 0.1 between the two objects). Any value up to 0.8 on
    the other edges along x leaves the tree, all maximin affinities, the segmentation by connected
    components at every threshold and every MALIS loss as they are. One prediction has 0.7 there,
    the other 0.05.

    What differs is all that looks at single edges: the average of the channels, its threshold and
    watershed, and the mean affinity of a boundary. A ValueError for fewer than 2 x 4 pixels.
    """
    if height < 2 or width < 4:
        raise ValueError(f"height and width must be at least 2 and 4, got {height} and {width}")
    labels = np.ones((height, width), dtype=np.uint64)
    labels[:, width // 2 :] = 2
    agreeing = np.zeros((2, height, width), dtype=np.float32)
    agreeing[0, 1:] = 0.9
    agreeing[1, :, 1:] = 0.7
    agreeing[1, 0, 1:] = 0.8
    agreeing[1, :, width // 2] = 0.05
    agreeing[1, 0, width // 2] = 0.1
    disagreeing = agreeing.copy()
    disagreeing[1, 1:, 1:] = 0.05
    in_tree = np.zeros(agreeing.shape, dtype=bool)
    in_tree[0, 1:] = True
    in_tree[1, 0, 1:] = True
    return SameTree(agreeing, disagreeing, in_tree, labels)
