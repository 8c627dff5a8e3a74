r"""A loss on small windows of a patch: where there are many leaks, every window shows its own.

The maximin edge of two large objects is the one weakest place of their whole common border. In a
large patch with many weak places, nearly all pairs share a few edges, and the rest of the border
gets no gradient until those are mended. Worse, a network whose borders all leak somewhere is
charged more than one that predicts the same affinity everywhere, so that training may settle there.
Windows cut the patch apart: the network keeps its context, but each window is a graph of its own,
with maximin edges of its own, and the weights of its pairs sum to 1 in each window.
"""

import operator
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from malis.checks import check_labels, check_mask
from malis.components import relabel_batch


class WindowLoss(nn.Module):
    """The mean of a loss over windows that tile the patch.

    Parameters
    ----------
    loss : nn.Module
        Called with (affinities, labels), averages over the batch; a `malis.MalisLoss` above all.
    size : int or (ndim,) sequence of int
        Voxels of a window along every axis; must divide the patch.

    Raises
    ------
    ValueError
        If a size is smaller than 1.

    Examples
    --------
    >>> loss = WindowLoss(malis.MalisLoss([(-1, 0), (0, -1)]), 32)
    >>> affinities = torch.rand(2, 2, 128, 128, requires_grad=True)
    >>> labels = torch.randint(0, 4, (2, 128, 128))
    >>> loss(affinities, labels).backward()
    """

    def __init__(self, loss: nn.Module, size: int | Sequence[int]) -> None:
        super().__init__()
        self.loss = loss
        self.size = int(size) if isinstance(size, Integral) else tuple(map(operator.index, size))
        if np.min(self.size) < 1:
            raise ValueError(f"size must be at least 1, got {size}")

    def forward(
        self,
        affinities: Tensor,
        labels: Tensor,
        edge_mask: Tensor | None = None,
        labelled_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of every window, and average.

        Parameters
        ----------
        affinities : (B, C, *spatial) float tensor
            In [0, 1]. An edge that leaves its window is in no graph and gets no gradient.
        labels : (B, *spatial) integer tensor
            Object ids, 0 = background.
        edge_mask, labelled_mask : tensors, optional
            Cut alike and passed on to the loss, see `malis.MalisLoss.forward`. Which parts of an
            object meet is told by the labels as they stand, those of unlabelled voxels included.

        Returns
        -------
        0-dimensional Tensor

        Raises
        ------
        ValueError
            If the size does not divide the patch, shapes disagree, or a label is negative.
        TypeError
            If labels are not integers, or there is a mask and the loss takes none.
        """
        check_labels(labels, (len(affinities), *affinities.shape[2:]))
        pieces, inside = cut_windows(affinities, labels, self.size)
        window, masks = tuple(inside.shape[1:]), {}
        if edge_mask is not None:
            check_mask(edge_mask, affinities.shape, "edge_mask")
            masks["edge_mask"] = _windows(edge_mask, window)
        if labelled_mask is not None:
            check_mask(labelled_mask, labels.shape, "labelled_mask")
            masks["labelled_mask"] = _windows(labelled_mask[:, None], window).squeeze(1)
        return self.loss(pieces, inside, **masks)


def cut_windows(
    affinities: Tensor, labels: Tensor, size: int | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Cut a batch of patches into a larger batch of windows.

    Parameters
    ----------
    affinities : (B, C, *spatial) float tensor
    labels : (B, *spatial) integer tensor
        Object ids, 0 = background. Parts of an object that do not meet within a window become
        objects of their own there, like those of a cropped patch.
    size : int or (ndim,) sequence of int
        Voxels of a window along every axis.

    Returns
    -------
    affinities : (B * W, C, *size) tensor
        Gradients flow back into the patches.
    labels : (B * W, *size) int64 tensor
        On the device of the labels; no id occurs in two windows.

    Raises
    ------
    ValueError
        If the size does not divide the patch.
    """
    shape = tuple(labels.shape[1:])
    window = (int(size),) * len(shape) if isinstance(size, Integral) else tuple(size)
    if len(window) != len(shape) or any(n % w for n, w in zip(shape, window, strict=True)):
        raise ValueError(f"windows of {window} voxels do not tile a patch of {shape}")
    pieces = _windows(labels[:, None], window).squeeze(1).numpy(force=True)
    inside = torch.from_numpy(relabel_batch(pieces)).to(labels.device)
    return _windows(affinities, window), inside


def _windows(batch: Tensor, window: tuple[int, ...]) -> Tensor:
    """Reshape (B, C, *spatial) to (B * W, C, *window)."""
    counts = [n // w for n, w in zip(batch.shape[2:], window, strict=True)]
    split = batch.reshape(
        *batch.shape[:2], *(n for pair in zip(counts, window, strict=True) for n in pair)
    )
    grid, inside = range(2, split.ndim, 2), range(3, split.ndim, 2)
    return split.permute(0, *grid, 1, *inside).reshape(-1, batch.shape[1], *window)
