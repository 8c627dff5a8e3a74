"""The adapted Rand error, by CREMI's formula."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .contingency import ContingencyTable, contingency_table


def adapted_rand(
    seg: np.ndarray,
    gt: np.ndarray,
    all_stats: bool = False,
    *,
    ignore_groundtruth: Iterable[int] = (0,),
) -> float | tuple[float, float, float]:
    """Measure the adapted Rand error between a segmentation and the ground truth.

    Called like this, ground-truth label 0 is ignored. `NeuronIds` ignores 2^64-1 instead and
    counts 0 as an ordinary object, as the CREMI challenge does.

    Parameters
    ----------
    seg, gt : integer arrays of one shape
        Labels.
    all_stats : bool
        Return precision and recall, too.
    ignore_groundtruth : iterable of int
        Voxels of the ground truth with these labels are not counted.

    Returns
    -------
    error : float
        1 - 2PR/(P+R), in [0, 1]; NaN if no voxel is left to be counted.
    precision, recall : float
        Only with `all_stats`: P and R.

    Raises
    ------
    TypeError, ValueError
        If the arrays are not labels of one shape.

    See Also
    --------
    adapted_rand_of_table : The formula.
    """
    scores = adapted_rand_of_table(contingency_table(seg, gt).without(ignore_groundtruth))
    return scores if all_stats else scores[0]


def adapted_rand_of_table(table: ContingencyTable) -> tuple[float, float, float]:
    """Measure the adapted Rand error of a contingency table.

    With n_ij voxels in object i and segment j, a_i in the object, b_j in the segment,
    P = sum n_ij^2 / sum b_j^2 and R = sum n_ij^2 / sum a_i^2. Pairs of a voxel with itself count.

    Segment 0 is special: it is left out of the sums over j, and c/n is added to both parts of P
    and to the upper part of R, where c of all n voxels are 0. Every such voxel was meant to be a
    segment of its own, which would be c instead of c/n. So voxels labelled 0 cost recall, and a
    perfect segmentation that contains label 0 does not reach error 0. The challenge's numbers
    contain this, so ours do, too.

    Parameters
    ----------
    table : ContingencyTable
        Without the labels to ignore.

    Returns
    -------
    error, precision, recall : float
        All NaN if the table is empty.

    References
    ----------
    Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for
    connectomics, Front. Neuroanat. 9:142, 2015. cremi_python, rand.py.
    """
    if not table.n_counted:
        return float("nan"), float("nan"), float("nan")
    labelled = table.seg_ids != 0
    zeros = int(table.seg_sizes[~labelled].sum()) / table.n_voxels
    return adapted_rand_of_sums(
        sum_of_squares(table.counts.data, labelled[table.counts.indices]),
        sum_of_squares(table.truth_sizes),
        sum_of_squares(table.seg_sizes, labelled),
        zeros,
    )


def adapted_rand_of_sums(both: Any, objects: Any, segments: Any, zeros: float) -> tuple:
    """Measure the adapted Rand error from sums of squares; the formula of `adapted_rand_of_table`.

    Parameters
    ----------
    both, objects, segments : float or array of float
        Sums of n_ij^2, a_i^2 and b_j^2, segment 0 left out of the first and the last.
    zeros : float
        Share of all voxels that have the label 0 in the segmentation.

    Returns
    -------
    error, precision, recall : float or array of float
    """
    precision, recall = (both + zeros) / (segments + zeros), (both + zeros) / objects
    return 1 - 2 * precision * recall / (precision + recall), precision, recall


def sum_of_squares(counts: np.ndarray, where: np.ndarray | bool = True) -> float:
    """Add up the squares of counts, in float64, whose sums do not overflow."""
    squares = np.square(counts, dtype=np.float64)
    return float(squares.sum(where=where))
