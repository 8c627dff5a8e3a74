r"""Losses made of losses: a weighted sum, a loss on windows, a loss that sees a margin.

All are called like the losses inside them, ``loss(affinities, labels)``, and pass masks on.

**Windows.** The maximin edge of two large objects is the worst leak in their whole common border.
In a large patch with many leaks, nearly all pairs share a few edges, and the rest of the border
gets no gradient until those leaks are closed. Worse, a network whose borders all leak somewhere is
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

from malis._checks import check_labels, check_mask
from malis.labels import grow_boundary, relabel_batch
from malis.loss import AffinityLoss, given_masks


class SumLoss(AffinityLoss):
    r"""A weighted sum of losses, :math:`L = \sum_i \alpha_i L_i`.

    Parameters
    ----------
    losses : sequence of modules
        Each is called with (affinities, labels), or with logits if all of them take logits.
    weights : sequence of float, optional
        :math:`\alpha`; all 1 by default.

    Raises
    ------
    ValueError
        If there are not as many weights as losses, or some losses take logits and others do not.
    """

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights = [1.0] * len(losses) if weights is None else list(weights)
        if len(self.weights) != len(self.losses):
            raise ValueError(f"got {len(self.weights)} weights for {len(self.losses)} losses")
        self._last_terms: dict[str, Tensor] = {}
        _ = self.from_logits  # or complain now

    @property
    def from_logits(self) -> bool:
        """Whether the losses take logits; a ValueError if they disagree."""
        kinds = [(type(loss).__name__, getattr(loss, "from_logits", False)) for loss in self.losses]
        if len({takes for _, takes in kinds}) > 1:
            found = ", ".join(f"{name}: {['affinities', 'logits'][takes]}" for name, takes in kinds)
            raise ValueError(f"the losses of a sum must all take the same, got {found}")
        return any(takes for _, takes in kinds)

    @property
    def backend(self) -> str:
        """The first choice of a backend among the losses."""
        choices = [getattr(loss, "backend", "auto") for loss in self.losses]
        return next((choice for choice in choices if choice != "auto"), "auto")

    @property
    def last_terms(self) -> dict[str, Tensor]:
        """What `terms` returned last, detached: the parts of a loss that was just called."""
        return self._last_terms

    def terms(
        self,
        affinities: Tensor,
        labels: Tensor,
        edge_mask: Tensor | None = None,
        labelled_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses one by one, before they are weighted; called like the loss itself.

        Returns
        -------
        dict of tensors
            By class name, followed by the place in the sum if two losses share a name.
        """
        masks = given_masks(edge_mask, labelled_mask)
        kinds = [type(loss).__name__ for loss in self.losses]
        names = [k if kinds.count(k) == 1 else f"{k} {i}" for i, k in enumerate(kinds)]
        values = [loss(affinities, labels, **masks) for loss in self.losses]
        self._last_terms = {n: v.detach() for n, v in zip(names, values, strict=True)}
        return dict(zip(names, values, strict=True))

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        terms = self.terms(affinities, labels, **masks).values()
        weighted = [weight * term for weight, term in zip(self.weights, terms, strict=True)]
        return torch.stack(weighted).sum()


class _LossAround(AffinityLoss):
    """A loss that changes its input and calls the loss inside."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @property
    def from_logits(self) -> bool:
        """Whether the loss inside takes logits."""
        return getattr(self.loss, "from_logits", False)

    @property
    def backend(self) -> str:
        """The backend of the loss inside."""
        return getattr(self.loss, "backend", "auto")


class WindowLoss(_LossAround):
    """The mean of a loss over windows that tile the patch.

    Parameters
    ----------
    loss : nn.Module
        Called with (affinities, labels), averages over the batch; usually a `malis.MalisLoss`.
    size : int or (ndim,) sequence of int
        Voxels of a window along every axis; must divide the patch.

    Raises
    ------
    ValueError
        If a size is smaller than 1.

    Notes
    -----
    An edge that leaves its window is in no graph and gets no gradient. Masks are cut like the
    affinities and labels. Whether parts of an object meet within a window depends on the labels as
    they are, including those of unlabelled voxels.

    Examples
    --------
    >>> loss = WindowLoss(malis.MalisLoss([(-1, 0), (0, -1)]), 32)
    >>> affinities = torch.rand(2, 2, 128, 128, requires_grad=True)
    >>> labels = torch.randint(0, 4, (2, 128, 128))
    >>> loss(affinities, labels).backward()
    """

    def __init__(self, loss: nn.Module, size: int | Sequence[int]) -> None:
        super().__init__(loss)
        self.size = int(size) if isinstance(size, Integral) else tuple(map(operator.index, size))
        if np.min(self.size) < 1:
            raise ValueError(f"size must be at least 1, got {size}")

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        check_labels(labels, (len(affinities), *affinities.shape[2:]))
        pieces, inside = cut_windows(affinities, labels, self.size, self.backend)
        window, cut = tuple(inside.shape[1:]), {}
        if "edge_mask" in masks:
            mask = check_mask(masks["edge_mask"], affinities.shape, "edge_mask")
            cut["edge_mask"] = _windows(mask, window)
        if "labelled_mask" in masks:
            mask = check_mask(masks["labelled_mask"], labels.shape, "labelled_mask")
            cut["labelled_mask"] = _windows(mask[:, None], window).squeeze(1)
        return self.loss(pieces, inside, **cut)


class GrowBoundaryLoss(_LossAround):
    """A loss that sees a margin of background between objects, for use beside losses that do not.

    MALIS needs the margin where labels touch; for cross-entropy, an edge in the wrong place is one
    of thousands. In our experiments on FIB-25 their sum did better where both saw the margin, so
    try `PatchDataset(boundary=...)` first.

    Parameters
    ----------
    loss : nn.Module
        Called with (affinities, labels); usually a `malis.MalisLoss`, or one on windows.
    steps : int or (ndim,) sequence of int
        See `grow_boundary`.

    Raises
    ------
    TypeError, ValueError
        As `grow_boundary`, for invalid steps.

    Notes
    -----
    An object that the margin cuts in two becomes two objects. Masks are passed on as they are.

    Examples
    --------
    >>> offsets = [(-1, 0), (0, -1)]
    >>> malis_loss = GrowBoundaryLoss(malis.MalisLoss(offsets), 1)
    >>> loss = malis.SumLoss([malis_loss, malis.AffinityCrossEntropy(offsets)], [0.3, 1.0])
    """

    def __init__(self, loss: nn.Module, steps: int | Sequence[int] = 1) -> None:
        super().__init__(loss)
        self.steps = int(steps) if isinstance(steps, Integral) else tuple(steps)
        axes = 1 if isinstance(self.steps, int) else len(self.steps)
        grow_boundary(np.zeros((1,) * axes, int), self.steps)  # or complain now

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        check_labels(labels, (len(affinities), *affinities.shape[2:]))
        along = (self.steps,) * (labels.ndim - 1) if isinstance(self.steps, int) else self.steps
        grown = grow_boundary(labels, (0, *along))
        if not isinstance(self.loss, WindowLoss):  # which does that itself, window by window
            grown = relabel_batch(grown, self.backend)
        return self.loss(affinities, grown, **masks)


def cut_windows(
    affinities: Tensor, labels: Tensor, size: int | Sequence[int], backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Cut a batch of patches into a larger batch of windows; a ValueError if they do not tile it.

    Return (B * W, C, *size) affinities, whose gradients flow back into the patches, and
    (B * W, *size) int64 labels. Parts of an object that do not meet within a window become objects
    of their own there, like those of a cropped patch; no id occurs in two windows.
    """
    shape = tuple(labels.shape[1:])
    window = (int(size),) * len(shape) if isinstance(size, Integral) else tuple(size)
    if len(window) != len(shape) or any(n % w for n, w in zip(shape, window, strict=True)):
        raise ValueError(f"windows of {window} voxels do not tile a patch of {shape}")
    pieces = _windows(labels[:, None], window).squeeze(1)
    return _windows(affinities, window), relabel_batch(pieces, backend)


def _windows(batch: Tensor, window: tuple[int, ...]) -> Tensor:
    """Reshape (B, C, *spatial) to (B * W, C, *window)."""
    counts = [n // w for n, w in zip(batch.shape[2:], window, strict=True)]
    split = batch.reshape(
        *batch.shape[:2], *(n for pair in zip(counts, window, strict=True) for n in pair)
    )
    grid, inside = range(2, split.ndim, 2), range(3, split.ndim, 2)
    return split.permute(0, *grid, 1, *inside).reshape(-1, batch.shape[1], *window)
