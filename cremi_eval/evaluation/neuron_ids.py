"""Segmentations of neurons against their ground truth."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._slabs import read, slabs
from ..grid import check_same_grid
from ..volume import Volume
from .border import border_mask
from .contingency import ContingencyTable, contingency_table
from .rand import adapted_rand_of_table
from .scores import Scores, scores_of_table
from .voi import voi_of_table

BACKGROUND = 2**64 - 1


class NeuronIds:
    """The ground truth that segmentations are scored against.

    Parameters
    ----------
    groundtruth : Volume
        Neuron ids. 2^64-1 (-1 if they are signed) is background and ignored; 0 is an ordinary
        object, as in the challenge. Read anew for every score, so keep its file open.
    border_threshold : float, optional
        Ignore voxels within this distance in nm of a border in their section. 0 or None ignores
        none.
    ignore_groundtruth : iterable of int
        Further ids to ignore, e.g. 0 where 0 means membrane.

    Raises
    ------
    TypeError
        If the ground truth is not a Volume.
    ValueError
        If a border cannot be measured: pixels that are not square, a negative threshold.

    Notes
    -----
    Values are cremi_python's, whose bugs are kept where they are part of the challenge's numbers:
    see `create_border_mask_2d` and `adapted_rand_of_table`. These differ on purpose:

    - Volumes on different grids raise a ValueError, not an AssertionError.
    - Ids may be as large as they like. cremi_python uses them as indices of a matrix, so that
      memory grows with the largest one, and a segment 2^64-1 is an error.
    - Ids of narrow types keep their meaning. cremi_python adds 1 in the type of the ground truth,
      so that 255 of uint8 is ignored.
    """

    def __init__(
        self,
        groundtruth: Volume,
        border_threshold: float | None = None,
        *,
        ignore_groundtruth: Iterable[int] = (),
    ) -> None:
        if not isinstance(groundtruth, Volume):
            raise TypeError(f"groundtruth must be a Volume, got {type(groundtruth).__name__}")
        self.groundtruth = groundtruth
        self.border_threshold = border_threshold
        self.ignored_ids = (BACKGROUND, *ignore_groundtruth)
        self.border = border_mask(groundtruth, border_threshold) if border_threshold else None

    def voi(self, segmentation: Volume | np.ndarray) -> tuple[float, float]:
        """Measure the variation of information of the whole volume.

        Parameters
        ----------
        segmentation : Volume or array
            Segment ids; 0 is an ordinary segment. An array is taken to lie on the grid of the
            ground truth.

        Returns
        -------
        split, merge : float
            H(segmentation | ground truth) and H(ground truth | segmentation), in bits.

        Raises
        ------
        ZeroDivisionError
            If every voxel is ignored.
        ValueError
            If shapes or resolutions disagree, or a label is negative.
        TypeError
            If the labels are not integers.
        """
        return voi_of_table(self.contingency_table(segmentation))

    def adapted_rand(
        self, segmentation: Volume | np.ndarray, all_stats: bool = False
    ) -> float | tuple[float, float, float]:
        """Measure the adapted Rand error of the whole volume.

        Parameters
        ----------
        segmentation : Volume or array
            Segment ids; 0 is special, see `adapted_rand_of_table`.
        all_stats : bool
            Return precision and recall, too.

        Returns
        -------
        error : float
            NaN if every voxel is ignored.
        precision, recall : float
            Only with `all_stats`.

        Raises
        ------
        TypeError, ValueError
            As `voi`.
        """
        scores = adapted_rand_of_table(self.contingency_table(segmentation))
        return scores if all_stats else scores[0]

    def whole_volume_scores(self, segmentation: Volume | np.ndarray) -> Scores:
        """Score the whole volume at once, as the challenge does.

        Counts the voxels once for all scores, where `voi` and `adapted_rand` count each for
        itself.

        Parameters
        ----------
        segmentation : Volume or array
            Segment ids.

        Returns
        -------
        Scores
            Of the whole volume.

        Raises
        ------
        ZeroDivisionError, TypeError, ValueError
            As `voi`.
        """
        return scores_of_table(self.contingency_table(segmentation))

    def section_scores(self, segmentation: Volume | np.ndarray) -> list[Scores | None]:
        """Score every section on its own, as if it were the only one.

        Parameters
        ----------
        segmentation : Volume or array
            Segment ids.

        Returns
        -------
        list of Scores or None
            One for each section; None where every voxel is ignored. `mean_of_sections` averages
            them.

        Raises
        ------
        TypeError, ValueError
            As `voi`.
        """
        seg, truth = self._on_grid(segmentation).data, self.groundtruth.data
        if len(seg.shape) != 3:
            raise ValueError(f"sections need volumes (z, y, x), got shape {tuple(seg.shape)}")
        scores: list[Scores | None] = []
        for slab in slabs(seg, truth):
            pieces = read(seg, slab), read(truth, slab)
            for z, sections in enumerate(zip(*pieces, strict=True), start=slab.start):
                border = None if self.border is None else self.border[z]
                table = self._table(*sections, border)
                scores.append(scores_of_table(table) if table.n_counted else None)
        return scores

    def contingency_table(self, segmentation: Volume | np.ndarray) -> ContingencyTable:
        """Count the voxels that objects and segments share, those that are ignored left out.

        Parameters
        ----------
        segmentation : Volume or array
            Segment ids.

        Returns
        -------
        ContingencyTable
            Of the whole volume; all scores can be taken from it.

        Raises
        ------
        TypeError, ValueError
            As `voi`.
        """
        segmentation = self._on_grid(segmentation)
        return self._table(segmentation.data, self.groundtruth.data, self.border)

    def _table(self, seg: Any, truth: Any, border: np.ndarray | None) -> ContingencyTable:
        return contingency_table(seg, truth, ignored=border).without(truth=self.ignored_ids)

    def _on_grid(self, segmentation: Volume | np.ndarray) -> Volume:
        if not isinstance(segmentation, Volume):
            segmentation = Volume(segmentation, self.groundtruth.resolution)
        check_same_grid(segmentation, self.groundtruth, ("the segmentation", "the ground truth"))
        return segmentation
