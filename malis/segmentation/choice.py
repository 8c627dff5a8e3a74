"""What validation data choose: where objects have their inside, and where merging stops.

Both belong together: a threshold is the best one for the fragments that it merges. Choose on
validation data, keep both with the network, and report scores on other data.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from malis._checks import Array, Offsets
from malis.segmentation.oversegmentation import inside_candidates
from malis.segmentation.recipe import hierarchies_of, sampled
from malis.segmentation.threshold import ThresholdCurve, best_threshold


class Choice(NamedTuple):
    """How affinities like these are segmented best.

    Attributes
    ----------
    inside : float
        Average affinity above which a voxel lies inside an object.
    threshold : float
        Score down to which fragments are merged.
    curve : ThresholdCurve
        Scores of all thresholds, with this inside.
    """

    inside: float
    threshold: float
    curve: ThresholdCurve


def choose_cut(
    parts: Sequence[Array],
    truths: Sequence[Array],
    offsets: Offsets,
    *,
    sampling: Sequence[float] | None = None,
    per_section: bool | None = None,
    candidates: Sequence[float] | None = None,
    smoothing: float = 0.0,
    ignore_groundtruth: Iterable[int] = (),
    **linkage: Any,
) -> Choice:
    """Choose the inside of objects and the threshold that give the best CREMI score.

    Parameters
    ----------
    parts : sequence of (C, *spatial) float arrays or tensors
        Affinities of validation volumes, or of validation sections.
    truths : sequence of (*spatial) integer arrays or tensors
        Object ids; see `best_threshold`.
    offsets, sampling, per_section, **linkage
        See `hierarchy_of`.
    candidates : sequence of float, optional
        Average affinities to try as the inside of objects; by default those of `inside_candidates`.
    smoothing, ignore_groundtruth
        See `best_threshold`.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError, TypeError
        See `hierarchy_of` and `best_threshold`.
    """
    settings = {"sampling": sampling, "per_section": per_section}
    if candidates is None:
        candidates = inside_candidates(*sampled(parts, offsets, **settings))
    choices = []
    for inside in candidates:
        hierarchies = hierarchies_of(parts, offsets, inside=inside, **settings, **linkage)
        found = best_threshold(
            hierarchies, truths, smoothing=smoothing, ignore_groundtruth=ignore_groundtruth
        )
        choices.append(Choice(float(inside), *found))
    scores = [choice.curve.cremi[choice.curve.best(smoothing=smoothing)] for choice in choices]
    return choices[int(np.argmin(scores))]
