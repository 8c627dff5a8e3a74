"""The contingency table: how many voxels every pair of segments shares."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from .._slabs import read, slabs


@dataclass(frozen=True)
class ContingencyTable:
    """Voxels that each ground-truth object shares with each segment.

    Attributes
    ----------
    counts : (T, S) scipy.sparse.csr_array of int64
        ``counts[i, j]`` voxels lie in object ``truth_ids[i]`` and segment ``seg_ids[j]``.
    truth_ids : (T,) uint64 array
        Labels of the ground truth, ascending.
    seg_ids : (S,) uint64 array
        Labels of the segmentation, ascending.
    n_voxels : int
        Size of the volume, voxels that were left out included.
    """

    counts: sparse.csr_array
    truth_ids: np.ndarray
    seg_ids: np.ndarray
    n_voxels: int

    @property
    def truth_sizes(self) -> np.ndarray:
        """Voxels of every ground-truth object, (T,) int64."""
        return self.counts.sum(axis=1)

    @property
    def seg_sizes(self) -> np.ndarray:
        """Voxels of every segment, (S,) int64."""
        return self.counts.sum(axis=0)

    @property
    def n_counted(self) -> int:
        """Voxels that the table counts."""
        return int(self.counts.data.sum())

    def without(self, truth: Iterable[int] = (), seg: Iterable[int] = ()) -> "ContingencyTable":
        """Leave out the voxels of some labels.

        Parameters
        ----------
        truth, seg : iterables of int
            Labels of the ground truth and of the segmentation; -1 means 2^64-1.

        Returns
        -------
        ContingencyTable
            The table of the other voxels; `n_voxels` is still the size of the whole volume.
        """
        rows = ~np.isin(self.truth_ids, _as_ids(truth))
        columns = ~np.isin(self.seg_ids, _as_ids(seg))
        if rows.all() and columns.all():
            return self
        counts = self.counts[rows][:, columns].tocoo()
        return _table(
            self.truth_ids[rows][counts.row],
            self.seg_ids[columns][counts.col],
            counts.data,
            self.n_voxels,
        )


def contingency_table(
    segmentation: Any, groundtruth: Any, *, ignored: np.ndarray | None = None
) -> ContingencyTable:
    """Count the voxels of every pair of labels.

    Both volumes are walked through in slabs of sections, so that data in a file are never in
    memory as a whole. In a slab, runs of voxels with the same two labels are counted at once.

    Parameters
    ----------
    segmentation, groundtruth : integer arrays or h5py.Datasets of one shape
        Labels up to 2^64-1 are exact. -1 in a signed ground truth is CREMI's 2^64-1.
    ignored : bool array of that shape, optional
        Voxels to leave out.

    Returns
    -------
    ContingencyTable
        Of the ground truth (rows) and the segmentation (columns).

    Raises
    ------
    TypeError
        If labels are not integers.
    ValueError
        If the shapes disagree or a label is negative.
    """
    for name, labels in (("segmentation", segmentation), ("ground truth", groundtruth)):
        if labels.dtype.kind not in "uib":
            raise TypeError(f"the labels of the {name} must be integers, got {labels.dtype}")
    shapes = [tuple(v.shape) for v in (segmentation, groundtruth, ignored) if v is not None]
    if len(set(shapes)) > 1:
        raise ValueError(f"segmentation, ground truth and mask differ in shape: {shapes}")
    n_voxels = math.prod(shapes[0])
    if not shapes[0] or not n_voxels:
        raise ValueError(f"there is no voxel to compare in volumes of shape {shapes[0]}")
    pieces = [
        _pairs_of_slab(
            read(segmentation, s), read(groundtruth, s), None if ignored is None else ignored[s]
        )
        for s in slabs(segmentation, groundtruth)
    ]
    truth, seg, counts = map(np.concatenate, zip(*pieces, strict=True))
    del pieces  # there may be one for every voxel
    return _table(truth, seg, counts, n_voxels)


def _pairs_of_slab(
    segmentation: np.ndarray, groundtruth: np.ndarray, ignored: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ground-truth labels, segment labels and voxel counts of a slab; pairs may recur."""
    truth, seg = groundtruth.ravel(), segmentation.ravel()
    if ignored is not None:
        evaluated = ~ignored.ravel()
        truth, seg = truth[evaluated], seg[evaluated]
    if not truth.size:
        return np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.uint8)

    # runs of voxels in which neither label changes
    begins = np.empty(truth.size, bool)
    begins[0] = True
    np.not_equal(truth[1:], truth[:-1], out=begins[1:])
    begins[1:] |= seg[1:] != seg[:-1]
    starts = np.flatnonzero(begins)
    truth = _unsigned(truth[starts], "ground truth", lowest=-1)
    seg = _unsigned(seg[starts], "segmentation", lowest=0)
    counts = np.diff(starts, append=begins.size)

    # a few small labels in many runs: add up equal pairs at once
    height, width = int(truth.max()) + 1, int(seg.max()) + 1
    if height * width <= 2 * counts.size:
        pairs = truth.astype(np.intp) * width + seg.astype(np.intp)
        sums = np.bincount(pairs, weights=counts)
        pairs = np.flatnonzero(sums)
        truth, seg, counts = pairs // width, pairs % width, sums[pairs].astype(np.int64)
    return _narrow(truth), _narrow(seg), _narrow(counts)


def _table(
    truth: np.ndarray, seg: np.ndarray, counts: np.ndarray, n_voxels: int
) -> ContingencyTable:
    """Add up the counts of equal pairs."""
    truth_ids, rows = _ranks(truth)
    seg_ids, columns = _ranks(seg)
    shape = (len(truth_ids), len(seg_ids))
    kind = np.int32 if n_voxels < 2**31 else np.int64  # half the memory while they are sorted
    table = sparse.coo_array((counts.astype(kind), (rows, columns)), shape).tocsr()
    table.data = table.data.astype(np.int64, copy=False)
    return ContingencyTable(table, truth_ids, seg_ids, n_voxels)


def _ranks(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct labels, ascending, and the place of each label among them."""
    if not labels.size:
        return np.zeros(0, np.uint64), np.zeros(0, np.intp)
    largest = int(labels.max())
    if largest > 4 * labels.size + (1 << 16):
        ids, places = np.unique(labels, return_inverse=True)
        return ids.astype(np.uint64), places
    present = np.zeros(largest + 1, bool)  # small labels need no sorting
    present[labels] = True
    rank = np.cumsum(present, dtype=np.int32) - 1
    return np.flatnonzero(present).astype(np.uint64), rank[labels]


def _unsigned(labels: np.ndarray, name: str, lowest: int) -> np.ndarray:
    if labels.dtype.kind == "i" and int(labels.min()) < lowest:
        raise ValueError(f"the {name} has the negative label {labels.min()}")
    return labels.astype(np.uint64, copy=False)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Store non-negative integers in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max())))


def _as_ids(labels: Iterable[int]) -> np.ndarray:
    return np.array([int(label) % 2**64 for label in labels], np.uint64)
