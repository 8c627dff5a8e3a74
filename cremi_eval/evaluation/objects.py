"""Which objects went wrong: the worst splits and the worst merges."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .contingency import ContingencyTable
from .voi import voi_by_object


@dataclass(frozen=True)
class ObjectError:
    """One object and what it was cut into, or one segment and what it joined.

    Attributes
    ----------
    id : int
        Its label: of the ground truth for a split, of the segmentation for a merge.
    voi : float
        What it adds to VOI split or VOI merge, in bits.
    voxels : int
        Its size, ignored voxels left out.
    parts : list of (int, int)
        Labels in the other volume that it overlaps, and the voxels they share; largest first.
    """

    id: int
    voi: float
    voxels: int
    parts: list[tuple[int, int]]


def worst_splits(table: ContingencyTable, n: int = 10) -> list[ObjectError]:
    """Find the ground-truth objects that add most to the VOI split.

    Parameters
    ----------
    table : ContingencyTable
        E.g. from `NeuronIds.contingency_table`.
    n : int
        How many to return at most; objects that are not split are not returned.

    Returns
    -------
    list of ObjectError
        Worst first; parts are segments. Among equals the smaller label comes first.
    """
    return _worst(table.counts.tocsr(), voi_by_object(table)[0], table.truth_ids, table.seg_ids, n)


def worst_merges(table: ContingencyTable, n: int = 10) -> list[ObjectError]:
    """Find the segments that add most to the VOI merge.

    Parameters
    ----------
    table : ContingencyTable
        E.g. from `NeuronIds.contingency_table`.
    n : int
        How many to return at most; segments that lie in one object are not returned.

    Returns
    -------
    list of ObjectError
        Worst first; parts are ground-truth objects. Among equals the smaller label comes first.
    """
    merge = voi_by_object(table)[1]
    return _worst(table.counts.T.tocsr(), merge, table.seg_ids, table.truth_ids, n)


def _worst(
    counts: sparse.csr_array, voi: np.ndarray, ids: np.ndarray, other_ids: np.ndarray, n: int
) -> list[ObjectError]:
    errors = []
    for row in np.argsort(-voi, kind="stable")[:n]:
        if voi[row] <= 0:
            break
        overlap = slice(*counts.indptr[row : row + 2])
        voxels, others = counts.data[overlap], other_ids[counts.indices[overlap]]
        order = np.lexsort((others, -voxels))
        parts = [(int(others[k]), int(voxels[k])) for k in order]
        errors.append(ObjectError(int(ids[row]), float(voi[row]), int(voxels.sum()), parts))
    return errors
