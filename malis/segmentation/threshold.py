"""What validation data choose: where objects have their inside, and where merging stops.

Scores need no segmentation, only counts: how many voxels each fragment shares with each object of
the truth. A merge adds up two rows of that table, so one walk along the merges scores every cut
there is.

Both belong together: a threshold is the best one for the fragments that it merges. Choose on
validation data, keep both with the network, and report scores on other data.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cremi_eval.evaluation import ContingencyTable, contingency_table, cremi_score, voi_of_table
from cremi_eval.evaluation.neuron_ids import BACKGROUND
from cremi_eval.evaluation.rand import adapted_rand_of_sums, sum_of_squares
from malis._checks import Array, Offsets, as_numpy, check_integer
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.oversegmentation import inside_candidates
from malis.segmentation.recipe import hierarchies_of, sampled

SCORES = ("cremi", "voi", "rand")
NO_MERGE = 1.001  # no affinity reaches this threshold
LOWEST, GRID_CELLS = 1e-3, 1000  # of the curve that is smoothed
ROUNDING = 1e-12  # a perfect score, after a thousand sums


@dataclass(frozen=True)
class ThresholdCurve:
    """Scores over thresholds, as `cremi_eval.evaluation.NeuronIds` defines them; 0 is perfect.

    Attributes
    ----------
    thresholds : (T,) float32 array
        In descending order: from all split to all merged.
    voi_split, voi_merge : (T,) float64 arrays
        H(segmentation | truth) and H(truth | segmentation) in bits.
    rand : (T,) float64 array
        Adapted Rand error.
    cremi : (T,) float64 array
        sqrt(VOI sum x adapted Rand error).
    """

    thresholds: np.ndarray
    voi_split: np.ndarray
    voi_merge: np.ndarray
    rand: np.ndarray
    cremi: np.ndarray

    @property
    def voi(self) -> np.ndarray:
        """Sum of VOI split and VOI merge, (T,) float64."""
        return self.voi_split + self.voi_merge

    def best(self, score: str = "cremi", smoothing: float = 0.0) -> int:
        """Find the lowest score; of neighbouring thresholds that share it, the middle one.

        Return its index into the arrays; for score and smoothing see `best_threshold`.
        """
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        if smoothing < 0:
            raise ValueError(f"smoothing must not be negative, got {smoothing}")
        values = getattr(self, score)
        if smoothing:
            values = _smooth(self.thresholds, values, smoothing)
        return middle_of_lowest(values)


def middle_of_lowest(values: np.ndarray) -> int:
    """Find the place of the lowest value; of neighbours that share it, the middle one."""
    first = last = int(np.argmin(values))
    while last + 1 < len(values) and values[last + 1] == values[first]:
        last += 1
    return (first + last) // 2


def _smooth(thresholds: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Average a curve that is constant between thresholds by a Gaussian in their log-odds."""
    at = np.clip(thresholds.astype(np.float64), LOWEST, 1 - LOWEST)
    at = -np.log(at / (1 - at))  # ascending, as the thresholds descend
    bounds = np.concatenate([at[:1], (at[1:] + at[:-1]) / 2, at[-1:]])
    integral = np.concatenate([[0], np.cumsum(values * np.diff(bounds))])
    # Each value is the curve's mean over cells of a fine grid, weighted by distance.
    grid = np.linspace(at[0] - 4 * width, at[-1] + 4 * width, GRID_CELLS)
    inside = np.clip(grid, at[0], at[-1])
    area = np.diff(np.interp(inside, bounds, integral))
    length = np.diff(inside)
    centres = (grid[1:] + grid[:-1]) / 2
    weights = np.exp(-0.5 * ((at[:, None] - centres) / width) ** 2)
    total = weights @ length
    return np.divide(weights @ area, total, out=values.copy(), where=total > 0)


def best_threshold(
    hierarchies: Hierarchy | Sequence[Hierarchy],
    truths: Array | Sequence[Array],
    *,
    thresholds: Sequence[float] | np.ndarray | None = None,
    score: str = "cremi",
    smoothing: float = 0.0,
    ignore_groundtruth: Iterable[int] = (),
) -> tuple[float, ThresholdCurve]:
    """Find the threshold at which a hierarchy is cut best.

    Parameters
    ----------
    hierarchies : Hierarchy or sequence of Hierarchy
        From `agglomerate`; several, for instance of sections segmented one by one, share one
        threshold, and each counts the same.
    truths : (*spatial) integer array or tensor, or a sequence of them
        Object ids, one volume for each hierarchy. 2^64-1 (-1 if signed) is ignored; a volume of
        which nothing is left has no part in the choice.
    thresholds : sequence of float, optional
        Thresholds to compare; by default one in the middle between any two neighbouring scores of
        merges, so that every cut there is takes part.
    score : {"cremi", "voi", "rand"}
        What to minimise: CREMI score, VOI sum or adapted Rand error.
    smoothing : float
        Standard deviation, in log-odds of the threshold (0.1 is 0.025 at a threshold of 0.5, 0.005
        at 0.95), by which the curve is smoothed before its minimum is taken. On few sections the
        lowest point of a curve is often a spike that other sections do not share.
    ignore_groundtruth : iterable of int
        Further ids to ignore, e.g. 0 where 0 means membrane.

    Returns
    -------
    threshold : float
        The best one.
    curve : ThresholdCurve
        The scores of all, means over the hierarchies.

    Raises
    ------
    ValueError
        If shapes or numbers of volumes disagree, a truth holds a negative label other than -1,
        the truths ignore every voxel, or there is no such score.
    TypeError
        If a truth holds no integers.
    """
    if isinstance(hierarchies, Hierarchy):
        hierarchies, truths = [hierarchies], [truths]
    if len(hierarchies) != len(truths) or not hierarchies:
        raise ValueError(f"{len(hierarchies)} hierarchies need as many truths, got {len(truths)}")
    if thresholds is None:
        taken = _between_scores(np.concatenate([h.scores for h in hierarchies]))
    else:
        taken = np.unique(np.asarray(thresholds, dtype=np.float32))[::-1]
    ignored = (BACKGROUND, *ignore_groundtruth)
    scored = []
    for hierarchy, truth in zip(hierarchies, truths, strict=True):
        scores = _scores_of_prefixes(hierarchy, truth, ignored)
        if scores is not None:
            scored.append(scores[:, [hierarchy.n_merges(threshold) for threshold in taken]])
    if not scored:
        raise ValueError("the truth ignores every voxel: there is nothing to score")
    curves = np.mean(scored, axis=0)
    curve = ThresholdCurve(taken, *curves)
    return float(taken[curve.best(score, smoothing)]), curve


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


def _between_scores(scores: np.ndarray) -> np.ndarray:
    """Return thresholds that separate all distinct scores, in descending order."""
    distinct = np.unique(scores)[::-1]
    bounds = np.concatenate([[NO_MERGE], distinct, [0]]).astype(np.float32)
    middle = (bounds[:-1] + bounds[1:]) / 2
    # A threshold equal to the upper score still separates, one equal to the lower does not.
    middle = np.where(middle > bounds[1:], middle, bounds[:-1])
    middle[0] = bounds[0]
    return middle


def _scores_of_prefixes(
    hierarchy: Hierarchy, truth: Array, ignored: tuple[int, ...]
) -> np.ndarray | None:
    """Score the segmentation after 0, 1, ..., M merges; return split, merge, Rand error, CREMI.

    None where the truth ignores every voxel.
    """
    check_integer(truth, "truth")
    truth = as_numpy(truth)
    if truth.shape != hierarchy.leaves.shape:
        raise ValueError(
            f"truth must have shape {hierarchy.leaves.shape} like the fragments, got {truth.shape}"
        )
    table = contingency_table(hierarchy.leaves, truth).without(truth=ignored)
    if not table.n_counted:
        return None
    squares, logs, sizes_squares, sizes_logs = _gains(table, hierarchy)
    split, merge = voi_of_table(table)
    split = split - logs / table.n_counted
    merge = merge + (sizes_logs - logs) / table.n_counted
    fragment = table.seg_ids != 0
    error, _, _ = adapted_rand_of_sums(
        sum_of_squares(table.counts.data, fragment[table.counts.indices]) + squares,
        sum_of_squares(table.truth_sizes),
        sum_of_squares(table.seg_sizes, fragment) + sizes_squares,
        int(table.seg_sizes[~fragment].sum()) / table.n_voxels,
    )
    split, merge, error = (np.where(x > ROUNDING, x, 0.0) for x in (split, merge, error))
    cremi = [cremi_score(*point) for point in zip(split, merge, error, strict=True)]
    return np.stack([split, merge, error, cremi])


def _gains(table: ContingencyTable, hierarchy: Hierarchy) -> np.ndarray:
    """Tell how far the sums that scores are made of have grown after each number of merges.

    Two segments that become one add up their overlaps n_ij with every object, and their sizes b_j.
    The four rows tell how the sums of n_ij^2, of n_ij log2 n_ij, of b_j^2 and of b_j log2 b_j grow.
    """
    segments = table.counts.T.tocsr()
    bounds = zip(segments.indptr[:-1].tolist(), segments.indptr[1:].tolist(), strict=True)
    columns, counts = segments.indices.tolist(), segments.data.tolist()
    rows: list[dict[int, int]] = [{} for _ in range(hierarchy.n_fragments + 1)]
    sizes = [0] * len(rows)
    for label, size, (a, b) in zip(
        table.seg_ids.tolist(), table.seg_sizes.tolist(), bounds, strict=True
    ):
        rows[label] = dict(zip(columns[a:b], counts[a:b], strict=True))
        sizes[label] = size
    growth = np.zeros((4, len(hierarchy.merges) + 1))
    for step, (one, other) in enumerate((hierarchy.merges + 1).tolist(), start=1):
        few, many = rows[one], rows[other]
        if len(few) > len(many):
            few, many = many, few
        squares, logs = 0, 0.0
        for label, count in few.items():
            present = many.get(label, 0)
            many[label] = present + count
            if present:
                squares += 2 * present * count
                logs += _gain(present, count)
        rows.append(many)
        a, b = sizes[one], sizes[other]
        sizes.append(a + b)
        growth[:, step] = squares, logs, 2 * a * b, _gain(a, b) if a and b else 0.0
    return np.cumsum(growth, axis=1)


def _gain(a: int, b: int) -> float:
    """Return by how much x log2 x of the sum exceeds that of the parts."""
    return (a + b) * math.log2(a + b) - a * math.log2(a) - b * math.log2(b)
