"""Borders that are one voxel off: a margin of background between objects that touch.

Where labels touch, nobody has drawn the membrane, and their border runs a voxel or two beside it
here and there. To a loss on single edges that is a little noise. To the constrained MALIS loss it
is a hole: in its negative pass all edges of an object are 1, so one voxel of an object on the far
side of the membrane joins two objects for good, whatever the network says about the membrane. With
a margin of background there is no such shortcut, and a membrane anywhere in the margin will do.
"""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from malis.checks import check_array, check_integer, check_labels, given_masks
from malis.compiling import uncompiled
from malis.components import relabel_batch


@uncompiled
def grow_boundary(labels: np.ndarray, steps: int | Sequence[int] = 1) -> np.ndarray:
    """Turn the outermost voxels of every object into background.

    Two objects that touch are then 2 x `steps` voxels apart; an object that is thinner than that
    vanishes. The faces of the volume are no borders.

    Parameters
    ----------
    labels : (*spatial) integer array
        Object ids, 0 = background; any integer type. One volume, no batch axis; for a batch see
        `GrowBoundaryLoss`.
    steps : int or (ndim,) sequence of int
        Voxels to take away, along every axis alike or along each: ``(0, 2, 2)`` for sections that
        are labelled one by one.

    Returns
    -------
    (*spatial) array of the same type

    Raises
    ------
    TypeError
        If labels are no array of integers, or steps are not integers.
    ValueError
        If steps are negative or not as many as the axes.

    References
    ----------
    The node ``GrowBoundary`` of gunpowder (Funke and others), in whose training pipelines for CREMI
    it stands before the affinities are made.

    Examples
    --------
    >>> grow_boundary(np.array([5, 5, 5, 8, 8, 8]))
    array([5, 5, 0, 0, 8, 8])
    """
    check_array(labels, "labels")
    check_integer(labels, "labels")
    along = np.asarray(steps)
    check_integer(along, "steps")
    along = np.repeat(along, labels.ndim) if along.ndim == 0 else along
    if len(along) != labels.ndim or along.min() < 0:
        raise ValueError(
            f"steps must be at least 0, one for each of {labels.ndim} axes, got {steps}"
        )
    grown = labels.copy()
    for step in range(along.max()):
        border = np.zeros(labels.shape, bool)
        for axis in (axis for axis, n in enumerate(along) if n > step):
            ids, marks = np.moveaxis(grown, axis, 0), np.moveaxis(border, axis, 0)
            differ = ids[1:] != ids[:-1]
            marks[1:] |= differ
            marks[:-1] |= differ
        grown[border] = 0
    return grown


class GrowBoundaryLoss(nn.Module):
    """A loss that sees a margin of background between objects, beside others that do not.

    MALIS needs the margin where labels touch; to cross-entropy an edge in the wrong place is one of
    thousands. In our experiments on FIB-25 their sum did better where both saw the margin, so try
    `PatchDataset(boundary=...)` first.

    Parameters
    ----------
    loss : nn.Module
        Called with (affinities, labels); a `malis.MalisLoss` above all, or one on windows.
    steps : int or (ndim,) sequence of int
        See `grow_boundary`.

    Raises
    ------
    TypeError, ValueError
        As `grow_boundary` does, for steps that are no steps.

    Examples
    --------
    >>> offsets = [(-1, 0), (0, -1)]
    >>> malis_loss = GrowBoundaryLoss(malis.MalisLoss(offsets), 1)
    >>> loss = malis.SumLoss([malis_loss, malis.AffinityCrossEntropy(offsets)], [0.3, 1.0])
    """

    def __init__(self, loss: nn.Module, steps: int | Sequence[int] = 1) -> None:
        super().__init__()
        self.loss = loss
        self.steps = int(steps) if isinstance(steps, Integral) else tuple(steps)
        axes = 1 if isinstance(self.steps, int) else len(self.steps)
        grow_boundary(np.zeros((1,) * axes, int), self.steps)  # or complain now

    def forward(
        self,
        affinities: Tensor,
        labels: Tensor,
        edge_mask: Tensor | None = None,
        labelled_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss with the outermost voxels of every object as background.

        Parameters
        ----------
        affinities : (B, C, *spatial) float tensor
        labels : (B, *spatial) integer tensor
            Object ids, 0 = background. What the margin cuts in two are two objects then.
        edge_mask, labelled_mask : tensors, optional
            Passed on to the loss as they are, see `malis.MalisLoss.forward`.

        Returns
        -------
        Tensor
            What the loss returns.

        Raises
        ------
        ValueError
            If there are not as many steps as axes, shapes disagree, or a label is negative.
        TypeError
            If labels are not integers, or there is a mask and the loss takes none.
        """
        check_labels(labels, (len(affinities), *affinities.shape[2:]))
        ids = labels.numpy(force=True)
        along = (self.steps,) * (ids.ndim - 1) if isinstance(self.steps, int) else self.steps
        grown = relabel_batch(grow_boundary(ids, (0, *along)))
        masks = given_masks(edge_mask, labelled_mask)
        return self.loss(affinities, torch.from_numpy(grown).to(labels.device), **masks)
