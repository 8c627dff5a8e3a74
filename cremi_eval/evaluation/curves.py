"""Split against merge, over the thresholds of a segmentation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..volume import Volume
from .neuron_ids import NeuronIds
from .scores import Scores


@dataclass(frozen=True)
class CurvePoint:
    """The scores of the segmentation at one threshold.

    Attributes
    ----------
    threshold : float
        Where the segmentation was cut.
    scores : Scores
        Of the whole volume.
    """

    threshold: float
    scores: Scores


def split_merge_curve(
    evaluation: NeuronIds, segmentations: Iterable[tuple[float, Volume | np.ndarray]]
) -> list[CurvePoint]:
    """Score one segmentation after another.

    Parameters
    ----------
    evaluation : NeuronIds
        The ground truth, and which of its voxels are ignored.
    segmentations : iterable of (threshold, segmentation)
        May be a generator: one segmentation is in memory at a time.

    Returns
    -------
    list of CurvePoint
        In the order of `segmentations`.

    Raises
    ------
    ZeroDivisionError, TypeError, ValueError
        As `NeuronIds.voi`.
    """
    return [
        CurvePoint(float(threshold), evaluation.whole_volume_scores(segmentation))
        for threshold, segmentation in segmentations
    ]


def best_point(curve: Sequence[CurvePoint], by: str = "cremi_score") -> CurvePoint:
    """Find the point with the smallest error.

    Parameters
    ----------
    curve : sequence of CurvePoint
        At least one.
    by : {"cremi_score", "voi_sum", "adapted_rand_error", "voi_split", "voi_merge"}
        The error to compare.

    Returns
    -------
    CurvePoint
        The first one of those with the smallest error.

    Raises
    ------
    ValueError
        If the curve is empty, or `by` is no error.
    """
    errors = ("cremi_score", "voi_sum", "adapted_rand_error", "voi_split", "voi_merge")
    if by not in errors:
        raise ValueError(f"by must be one of {', '.join(errors)}, got {by!r}")
    if not curve:
        raise ValueError("the curve has no point")
    return min(curve, key=lambda point: getattr(point.scores, by))


def best_curve(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Keep the points that no other point beats in both VOI split and VOI merge.

    Parameters
    ----------
    curve : sequence of CurvePoint
        Of one method or of several.

    Returns
    -------
    list of CurvePoint
        From the smallest VOI split to the smallest VOI merge.
    """
    best: list[CurvePoint] = []
    for point in sorted(curve, key=lambda p: (p.scores.voi_split, p.scores.voi_merge)):
        if not best or point.scores.voi_merge < best[-1].scores.voi_merge:
            best.append(point)
    return best
