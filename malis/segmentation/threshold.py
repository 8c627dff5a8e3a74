"""Choosing the threshold of a hierarchy on data whose truth is known.

Scores need no segmentation, only counts: how many voxels each fragment shares with each object of
the truth. A merge adds up two rows of that table, so one walk along the merges scores every cut
there is.

Choose the threshold on validation data, and report scores on other data at the threshold chosen.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from malis._checks import Array, as_numpy, check_integer
from malis.segmentation.hierarchy import Hierarchy

SCORES = ("cremi", "voi", "rand")
NO_MERGE = 1.001  # no affinity reaches this threshold
LOWEST, GRID_CELLS = 1e-3, 1000  # of the curve that is smoothed
BACKGROUND = 2**64 - 1  # CREMI's id of voxels to ignore; -1 if ids are signed


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

        Parameters
        ----------
        score : {"cremi", "voi", "rand"}
        smoothing : float
            See `best_threshold`.

        Returns
        -------
        int
            Index into the arrays.

        Raises
        ------
        ValueError
            If there is no such score, or smoothing is negative.
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
    """Find the lowest value; of neighbours that share it, the middle one.

    Parameters
    ----------
    values : (T,) array

    Returns
    -------
    int
        Its index.
    """
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
        If shapes or numbers of volumes disagree, the truths ignore every voxel, or there is no
        such score.
    TypeError
        If a truth holds no integers.

    Notes
    -----
    O(V) time for V voxels, then O(K log K + M) for K pairs of a fragment and an object that
    overlap, and M merges.
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
    overlaps = _overlaps(hierarchy, truth, ignored)
    if overlaps is None:
        return None
    table, zeros, n_voxels = overlaps
    sizes_of_truth = table.sum(axis=0) + zeros
    unlabelled = zeros.sum() / n_voxels  # cremi_python's term for voxels labelled 0
    n = float(sizes_of_truth.sum())
    pairs_sq, pairs_log, sizes_sq, sizes_log = _moments_of_prefixes(table, hierarchy.merges)
    # In VOI, 0 is one more segment; in the Rand error it is not.
    pairs_log = pairs_log + _xlogx(zeros).sum()
    sizes_log = sizes_log + _xlogx(zeros.sum())
    split = (_xlogx(sizes_of_truth).sum() - pairs_log) / n
    merge = (sizes_log - pairs_log) / n
    both = pairs_sq + unlabelled
    precision = both / (sizes_sq + unlabelled)
    recall = both / np.square(sizes_of_truth, dtype=np.float64).sum()
    error = 1 - 2 * precision * recall / (precision + recall)
    split, merge, error = (np.where(x > 1e-12, x, 0.0) for x in (split, merge, error))
    return np.stack([split, merge, error, np.sqrt((split + merge) * error)])


def _overlaps(
    hierarchy: Hierarchy, truth: Array, ignored: tuple[int, ...]
) -> tuple[sparse.csr_array, np.ndarray, int] | None:
    """Count the voxels of every fragment, and of no fragment, in every object that counts."""
    check_integer(truth, "truth")
    truth = as_numpy(truth)
    if truth.shape != hierarchy.leaves.shape:
        raise ValueError(
            f"truth must have shape {hierarchy.leaves.shape} like the fragments, got {truth.shape}"
        )
    # Runs of voxels in which neither label changes are counted at once.
    objects, leaves = truth.ravel(), hierarchy.leaves.ravel()
    begins = np.ones(truth.size, dtype=bool)
    begins[1:] = (objects[1:] != objects[:-1]) | (leaves[1:] != leaves[:-1])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=truth.size)
    ids, column = np.unique(objects[starts], return_inverse=True)
    counted = ~np.isin(ids.astype(np.uint64), [np.uint64(label % 2**64) for label in ignored])
    kept = counted[column]
    if not kept.any():
        return None
    table = sparse.coo_array(
        (lengths[kept], (leaves[starts[kept]], column[kept])),
        (hierarchy.n_fragments + 1, len(ids)),
    ).tocsr()
    return table[1:], table[[0]].toarray()[0], truth.size


def _moments_of_prefixes(table: sparse.csr_array, merges: np.ndarray) -> np.ndarray:
    """Sum squares and x log x of overlaps and of region sizes, after each number of merges.

    Returns
    -------
    (4, M + 1) float64 array
        Sum over overlaps n_ij of n^2 and of n log2 n, sum over sizes b_j of b^2 and of b log2 b.
    """
    sizes = table.sum(axis=1).tolist()
    bounds = zip(table.indptr[:-1].tolist(), table.indptr[1:].tolist(), strict=True)
    columns, counts = table.indices.tolist(), table.data.tolist()
    rows: list[dict[int, int]] = [
        dict(zip(columns[a:b], counts[a:b], strict=True)) for a, b in bounds
    ]
    change = np.zeros((4, len(merges) + 1))
    change[:, 0] = (
        np.square(table.data, dtype=np.float64).sum(),
        _xlogx(table.data).sum(),
        np.square(np.array(sizes, dtype=np.float64)).sum(),
        _xlogx(np.array(sizes)).sum(),
    )
    for step, (one, other) in enumerate(merges.tolist(), start=1):
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
        change[:, step] = squares, logs, 2 * a * b, _gain(a, b) if a and b else 0.0
    return np.cumsum(change, axis=1)


def _gain(a: int, b: int) -> float:
    """Return by how much x log2 x of the sum exceeds that of the parts."""
    return (a + b) * math.log2(a + b) - a * math.log2(a) - b * math.log2(b)


def _xlogx(x: np.ndarray) -> np.ndarray:
    """Return x log2 x, 0 at 0."""
    x = np.asarray(x, dtype=np.float64)
    return x * np.log2(np.where(x > 0, x, 1))
