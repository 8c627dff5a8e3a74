"""Variation of information: how much is split, how much is merged, in bits."""

from collections.abc import Iterable

import numpy as np

from .contingency import ContingencyTable, contingency_table

BLOCK = 1 << 20  # pairs at a time: one for every voxel, in the worst case


def voi(
    reconstruction: np.ndarray,
    groundtruth: np.ndarray,
    ignore_reconstruction: Iterable[int] = (),
    ignore_groundtruth: Iterable[int] = (0,),
) -> tuple[float, float]:
    """Measure the variation of information between a segmentation and the ground truth.

    Called like this, ground-truth label 0 is ignored. `NeuronIds` ignores 2^64-1 instead and
    counts 0 as an ordinary object, as the CREMI challenge does.

    Parameters
    ----------
    reconstruction, groundtruth : integer arrays of one shape
        Labels.
    ignore_reconstruction, ignore_groundtruth : iterables of int
        Voxels with these labels are not counted.

    Returns
    -------
    split, merge : float
        H(reconstruction | groundtruth) and H(groundtruth | reconstruction), in bits.

    Raises
    ------
    ZeroDivisionError
        If no voxel is left to be counted.
    TypeError, ValueError
        If the arrays are not labels of one shape.

    References
    ----------
    Meila, Comparing clusterings - an information based distance, J. Multivariate Analysis 98, 2007.
    """
    table = contingency_table(reconstruction, groundtruth)
    return voi_of_table(table.without(ignore_groundtruth, ignore_reconstruction))


def voi_of_table(table: ContingencyTable) -> tuple[float, float]:
    """Measure the variation of information of a contingency table.

    Parameters
    ----------
    table : ContingencyTable
        As it is; nothing is ignored.

    Returns
    -------
    split, merge : float
        In bits.

    Raises
    ------
    ZeroDivisionError
        If the table is empty.
    """
    if not table.n_counted:
        raise ZeroDivisionError("there is no voxel to evaluate: the ground truth ignores them all")
    split, merge = voi_by_object(table)
    return float(split.sum()), float(merge.sum())


def voi_by_object(table: ContingencyTable) -> tuple[np.ndarray, np.ndarray]:
    """Measure what every object and every segment adds to the variation of information.

    Object i, of a_i voxels, adds sum_j n_ij/n log2(a_i/n_ij) to the split error: nothing if it is
    one segment, more the more evenly it is cut. Segment j adds sum_i n_ij/n log2(b_j/n_ij) to the
    merge error.

    Parameters
    ----------
    table : ContingencyTable
        With T objects and S segments.

    Returns
    -------
    split : (T,) float64 array
        Contribution of every ground-truth object in bits; their sum is the VOI split.
    merge : (S,) float64 array
        Contribution of every segment in bits; their sum is the VOI merge.
    """
    pairs = table.counts.tocoo(copy=False)
    total = max(1, table.n_counted)
    sizes, seg_sizes = table.truth_sizes, table.seg_sizes
    split, merge = np.zeros(len(sizes)), np.zeros(len(seg_sizes))
    for start in range(0, pairs.nnz, BLOCK):
        block = slice(start, start + BLOCK)
        i, j, n_ij = pairs.row[block], pairs.col[block], pairs.data[block]
        np.add.at(split, i, n_ij / total * np.log2(sizes[i] / n_ij))
        np.add.at(merge, j, n_ij / total * np.log2(seg_sizes[j] / n_ij))
    return split, merge
