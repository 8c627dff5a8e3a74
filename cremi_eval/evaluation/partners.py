"""Synaptic partners: detected pairs of sites, matched with the true ones."""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..annotations import Annotations
from ..volume import Volume


class PartnerStatistics(NamedTuple):
    """What `synaptic_partners_fscore` gives with `all_stats`.

    Attributes
    ----------
    fscore, precision, recall : float
        In [0, 1].
    fp, fn : int
        Detected and true pairs without a match.
    matches : list of (int, int, float)
        Rows of the matched pairs among the detected and the true ones, and their cost in nm.
    """

    fscore: float
    precision: float
    recall: float
    fp: int
    fn: int
    matches: list[tuple[int, int, float]]


class SynapticPartners:
    """Score of detected synaptic partners.

    Parameters
    ----------
    matching_threshold : float
        Sites may be this far apart in nm to be matched.
    """

    def __init__(self, matching_threshold: float = 400) -> None:
        self.matching_threshold = matching_threshold

    def fscore(
        self,
        rec_annotations: Annotations,
        gt_annotations: Annotations,
        gt_segmentation: Volume,
        all_stats: bool = False,
    ) -> float | PartnerStatistics:
        """Score detected partners, see `synaptic_partners_fscore`."""
        return synaptic_partners_fscore(
            rec_annotations, gt_annotations, gt_segmentation, self.matching_threshold, all_stats
        )


def synaptic_partners_fscore(
    rec_annotations: Annotations,
    gt_annotations: Annotations,
    gt_segmentation: Volume,
    matching_threshold: float = 400,
    all_stats: bool = False,
) -> float | PartnerStatistics:
    """Measure the F-score of detected synaptic partners.

    A detected pair can be matched with a true one if both link the same neurons of the ground
    truth, and neither their presynaptic nor their postsynaptic sites are farther apart than the
    threshold. Among all ways to match, each pair at most once, the one with the most matches and
    then the smallest sum of distances is taken. A row that is listed twice is detected twice.

    Parameters
    ----------
    rec_annotations, gt_annotations : Annotations
        Detected and true partners.
    gt_segmentation : Volume
        Neuron ids of the ground truth, in which the sites of both are looked up.
    matching_threshold : float
        In nm; a distance that equals it is accepted.
    all_stats : bool
        Return all statistics instead of the F-score alone.

    Returns
    -------
    fscore : float
        2 TP / (2 TP + FP + FN). 0 if nothing matches, where cremi_python divides by zero.
    PartnerStatistics
        With `all_stats`: the tuple (fscore, precision, recall, fp, fn, matches). Precision is NaN
        if nothing was detected, recall if there is nothing to detect.

    Raises
    ------
    ValueError
        If there are neither detected nor true partners, or the threshold is not positive.
    IndexError
        If a site lies outside of the segmentation.

    References
    ----------
    cremi.org/metrics; cremi_python, synaptic_partners.py.
    """
    costs = cost_matrix(rec_annotations, gt_annotations, gt_segmentation, matching_threshold)
    if not costs.size:
        raise ValueError("there are neither detected nor true partners to compare")
    rows, columns = linear_sum_assignment(costs)
    matches = [
        (int(i), int(j), float(costs[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if costs[i, j] <= matching_threshold
    ]
    tp = len(matches)
    fp = len(rec_annotations.pre_post_partners) - tp
    fn = len(gt_annotations.pre_post_partners) - tp
    statistics = PartnerStatistics(
        fscore=2 * tp / (2 * tp + fp + fn),
        precision=tp / (tp + fp) if tp + fp else math.nan,
        recall=tp / (tp + fn) if tp + fn else math.nan,
        fp=fp,
        fn=fn,
        matches=matches,
    )
    return statistics if all_stats else statistics.fscore


def cost_matrix(
    rec: Annotations, gt: Annotations, gt_segmentation: Volume, matching_threshold: float
) -> np.ndarray:
    """Compute what it costs to match every detected pair with every true one.

    Parameters
    ----------
    rec, gt : Annotations
        Detected and true partners, r and t of them.
    gt_segmentation : Volume
        Neuron ids of the ground truth.
    matching_threshold : float
        In nm, positive.

    Returns
    -------
    (n, n) float64 array
        n = max(r, t). Mean distance in nm of the two sites, and twice the threshold where a match
        is not allowed or there is no such pair.

    Raises
    ------
    ValueError, IndexError
        As `synaptic_partners_fscore`.
    """
    if not 0 < matching_threshold < math.inf:
        raise ValueError(f"matching_threshold must be a positive number, got {matching_threshold}")
    rec_sites, gt_sites = (pre_post_locations(a, gt_segmentation) for a in (rec, gt))
    rec_labels, gt_labels = (_labels(sites, gt_segmentation) for sites in (rec_sites, gt_sites))

    distances = np.linalg.norm(rec_sites[:, None] - gt_sites[None], axis=-1)  # (r, t, pre/post)
    possible = (rec_labels[:, None] == gt_labels[None]).all(-1)
    possible &= (distances <= matching_threshold).all(-1)
    size = max(len(rec_sites), len(gt_sites))
    costs = np.full((size, size), 2.0 * matching_threshold)
    costs[: len(rec_sites), : len(gt_sites)][possible] = distances.mean(-1)[possible]
    return costs


def pre_post_locations(annotations: Annotations, gt_segmentation: Volume) -> np.ndarray:
    """Locate the sites of all partners on the grid of a segmentation.

    Parameters
    ----------
    annotations : Annotations
        With n pairs of partners.
    gt_segmentation : Volume
        Its offset becomes the origin.

    Returns
    -------
    (n, 2, 3) float64 array
        Presynaptic and postsynaptic location in nm, (z, y, x).
    """
    shift = np.subtract(annotations.offset, gt_segmentation.offset, dtype=float)
    pairs = [
        [annotations.get_annotation(site)[1] for site in pair]
        for pair in annotations.pre_post_partners
    ]
    return np.array(pairs, float).reshape(-1, 2, 3) + shift


def _labels(sites: np.ndarray, segmentation: Volume) -> np.ndarray:
    labels = [[segmentation[tuple(site)] for site in pair] for pair in sites]
    return np.array(labels, segmentation.data.dtype).reshape(-1, 2)
