"""Synaptic clefts: how far detections and ground truth lie apart."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .._slabs import read
from ..grid import check_same_grid
from ..volume import Volume

BACKGROUND = 2**64 - 1
INVALID = 2**64 - 2


class Clefts:
    """Detected synaptic clefts, compared with the true ones.

    Only the place of a cleft counts, not its id. Every voxel except 2^64-1 is cleft, label 0, too.
    Voxels that are 2^64-2 in the truth are background in both volumes; in the detections that id is
    a cleft like any other.

    Parameters
    ----------
    test, truth : Volume
        Detected and true clefts, on one grid.

    Attributes
    ----------
    test_clefts_mask, truth_clefts_mask : (z, y, x) bool arrays
        True where there is no cleft.
    false_positive_distances : 1D float64 array
        Distance in nm of every detected voxel to the nearest true one, 0 inside a true cleft.
    false_negative_distances : 1D float64 array
        Distance in nm of every true voxel to the nearest detected one.

    Raises
    ------
    ValueError
        If shapes or resolutions disagree.
    TypeError
        If labels are not integers.

    Notes
    -----
    Where one volume has no cleft at all, distances to it are infinite. cremi_python hands SciPy an
    image without background then and measures to a point outside of the volume, so that its
    statistics are arbitrary numbers and counts can be too small.
    """

    def __init__(self, test: Volume, truth: Volume) -> None:
        check_same_grid(test, truth, ("the detected clefts", "the true clefts"))
        self.truth_clefts_mask, invalid = _masks(truth, "truth")
        self.test_clefts_mask = _masks(test, "test")[0] | invalid
        self.truth_clefts_mask |= invalid
        self.false_positive_distances = _distances(
            self.test_clefts_mask, self.truth_clefts_mask, truth.resolution
        )
        self.false_negative_distances = _distances(
            self.truth_clefts_mask, self.test_clefts_mask, test.resolution
        )

    def count_false_positives(self, threshold: float = 200) -> int:
        """Count detected voxels farther than `threshold` nm from every true cleft."""
        return int(np.count_nonzero(self.false_positive_distances > threshold))

    def count_false_negatives(self, threshold: float = 200) -> int:
        """Count true voxels farther than `threshold` nm from every detected cleft."""
        return int(np.count_nonzero(self.false_negative_distances > threshold))

    def acc_false_positives(self) -> dict[str, float]:
        """Summarise how far detected voxels lie from the true clefts.

        Returns
        -------
        dict
            mean, std, max and median distance in nm, and the count of voxels. Voxels inside of
            true clefts are among them, with distance 0.

        Raises
        ------
        ValueError
            If nothing was detected.
        """
        return _statistics(self.false_positive_distances, "nothing was detected")

    def acc_false_negatives(self) -> dict[str, float]:
        """Summarise how far true voxels lie from the detected clefts.

        Returns
        -------
        dict
            As `acc_false_positives`.

        Raises
        ------
        ValueError
            If there is no true cleft.
        """
        return _statistics(self.false_negative_distances, "the truth has no cleft")


def _masks(clefts: Volume, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where the labels are background, and where they are invalid."""
    if clefts.data.dtype.kind not in "ui":
        raise TypeError(f"the clefts of the {name} must be integers, got {clefts.data.dtype}")
    labels = read(clefts.data).astype(np.uint64, copy=False)  # a signed -1 is background, too
    return labels == BACKGROUND, labels == INVALID


def _distances(
    background: np.ndarray, other_background: np.ndarray, resolution: Sequence[float]
) -> np.ndarray:
    """Return the distance of every foreground voxel of one mask to the foreground of another."""
    voxels = np.nonzero(~background)
    if other_background.all():
        return np.full(len(voxels[0]), np.inf)
    # nearest voxels only: the distances of the whole volume would take three times the memory
    nearest = ndimage.distance_transform_edt(
        other_background, sampling=resolution, return_distances=False, return_indices=True
    )
    steps = ((n[voxels] - v) * r for n, v, r in zip(nearest, voxels, resolution, strict=True))
    return np.sqrt(sum(step * step for step in steps))


def _statistics(distances: np.ndarray, when_empty: str) -> dict[str, float]:
    if not distances.size:
        raise ValueError(f"{when_empty}, so there are no distances to summarise")
    finite = bool(np.isfinite(distances[0]))  # one is infinite if all are
    return {
        "mean": float(distances.mean()),
        "std": float(distances.std()) if finite else float("nan"),
        "max": float(distances.max()),
        "count": int(distances.size),
        "median": float(np.median(distances)),
    }
