r"""How losses are called, what a single edge is charged, and cross-entropy over all edges alike.

An edge within an object should have affinity 1 and is charged :math:`\ell(a)`; an edge between two
objects should have affinity 0 and is charged :math:`\ell(1 - a)`.

**Logits.** A network puts out logits x, and the sigmoid turns them into affinities. In float32 it
rounds to 1 from a logit of 17 on, in float16 from 8.5, in bfloat16 from 6.25. The order of such
edges is lost, and wrong ones get no gradient. Losses with ``from_logits=True`` take x itself: they
order the edges by it, and compute cross-entropy as :math:`-\log a = \log(1 + e^{-x})`, whose
gradient at a wrong edge tends to 1.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from malis._checks import Checked, Offsets, check_offsets, check_prediction, clear_outside, like
from malis.affinity import as_numbers, count_edges, same_object

EDGE_LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "squared": lambda affinity, margin: (1 - affinity) ** 2,
    "squared_hinge": lambda affinity, margin: (1 - affinity - margin).clamp(min=0) ** 2,
    "cross_entropy": lambda affinity, margin: F.binary_cross_entropy(
        affinity, torch.ones_like(affinity), reduction="none"
    ),
}
LOGIT_LOSSES: dict[
    str, Callable[[Tensor], Tensor]
] = {  # where there is a better way than EDGE_LOSSES
    "cross_entropy": lambda logit: -F.logsigmoid(logit)
}


def edge_losses(
    affinities: Tensor, edge_loss: str, margin: float, from_logits: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the charge of every edge if it lies within an object, and if it lies between two.

    Parameters
    ----------
    affinities : float tensor of any shape
        In [0, 1].
    edge_loss : str
        A key of `EDGE_LOSSES`.
    margin : float
        Of the squared hinge.
    from_logits : bool
        Whether they are logits instead.

    Returns
    -------
    same, different : tensors of that shape
        At least float32, outside of any autocast.
    """
    with torch.autocast(affinities.device.type, enabled=False):
        values = at_least_float32(affinities, from_logits)
        if from_logits and edge_loss in LOGIT_LOSSES:
            loss = LOGIT_LOSSES[edge_loss]
            return loss(values), loss(-values)
        values = values.sigmoid() if from_logits else values.clamp(0, 1)
        loss = EDGE_LOSSES[edge_loss]
        return loss(values, margin), loss(1 - values, margin)


def at_least_float32(affinities: Tensor, from_logits: bool) -> Tensor:
    """Return numbers of half precision as float32, all others as they are."""
    if affinities.dtype.itemsize < 4 and not from_logits:
        warn_of_half_precision()
    return affinities.to(torch.promote_types(affinities.dtype, torch.float32))


@functools.cache
def warn_of_half_precision() -> None:
    """Warn, once in a process."""
    warnings.warn(
        "a loss got affinities of half precision, in which many round to 0 or 1 and have no order "
        "and no gradient: make the loss with from_logits=True and call it with what the network "
        "puts out before the sigmoid, or take the sigmoid in float32",
        stacklevel=2,
    )


class AffinityLoss(nn.Module):
    """Base of all losses, those on edges and those made of other losses.

    Attributes
    ----------
    from_logits : bool
        Whether it is called with logits, which may be any finite numbers, instead of affinities. A
        loss without this attribute takes affinities.
    backend : str
        See `malis.pair_counts`.
    """

    from_logits: bool = False
    backend: str = "auto"

    def forward(
        self,
        affinities: Tensor,
        labels: Tensor,
        edge_mask: Tensor | None = None,
        labelled_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of predicted affinities.

        Parameters
        ----------
        affinities : (B, C, *spatial) float tensor
            In [0, 1], or logits; channel c joins voxel v and v + offsets[c]. Edges that leave the
            volume may hold anything, and get no gradient.
        labels : (B, *spatial) integer tensor
            Object ids, 0 = background.
        edge_mask : (B, C, *spatial) tensor, optional
            1 = known, 0 = unknown edge.
        labelled_mask : (B, *spatial) tensor, optional
            1 = labelled, 0 = unlabelled voxel; see `malis.pair_counts`.

        Returns
        -------
        Tensor
            0-dimensional, or what a reduction of ``"none"`` leaves; at least float32.

        Raises
        ------
        ValueError
            If shapes disagree or do not fit the loss, a label is negative, or the affinity of an
            edge is not finite or not in [0, 1].
        TypeError
            If affinities are not floating-point numbers, labels are not integers, or there is a
            mask and the loss, or one inside it, takes none.
        """
        return self._evaluate(affinities, labels, given_masks(edge_mask, labelled_mask))

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        """Compute the loss, with the masks that were given."""
        raise NotImplementedError


def given_masks(edge_mask: Tensor | None, labelled_mask: Tensor | None) -> dict[str, Tensor]:
    """Return the masks that were given as keywords, for a loss that may take none."""
    masks = {"edge_mask": edge_mask, "labelled_mask": labelled_mask}
    return {name: mask for name, mask in masks.items() if mask is not None}


class AffinityCrossEntropy(AffinityLoss):
    r"""Binary cross-entropy over all edges: the affinity loss without any notion of a segment.

    .. math:: L = -\frac{1}{|E|} \sum_{e \in E} \big[ t_e \log a_e + (1 - t_e) \log(1 - a_e) \big]

    over the edges E that exist and are known, with the affinities t of the labels. It is 0 where no
    edge is known. As in `malis.pair_counts`, unlabelled voxels form one further object with unknown
    inner edges.

    Parameters
    ----------
    offsets : (C, ndim) integers
        Edge of every channel.
    from_logits : bool
        Whether it is called with logits.
    """

    def __init__(self, offsets: Offsets, *, from_logits: bool = False) -> None:
        super().__init__()
        self.offsets = check_offsets(offsets)
        self.from_logits = from_logits

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        options = {"batched": True, "from_logits": self.from_logits}
        checked = check_prediction(affinities, labels, self.offsets, **masks, **options)
        target, known = self._targets(checked)
        with torch.autocast(affinities.device.type, enabled=False):
            values = at_least_float32(affinities, self.from_logits)
            # An edge that leaves the volume is predicted, for sure, to be what its target is: 0.
            if self.from_logits:
                values = clear_outside(values, self.offsets, -1e4)
                cross_entropy = F.binary_cross_entropy_with_logits
            else:
                values = clear_outside(values, self.offsets).clamp(0, 1)
                cross_entropy = F.binary_cross_entropy
            target = as_numbers(target, values.dtype)
            weights = None if known is None else as_numbers(known, values.dtype)
            total = cross_entropy(values, target, weights, reduction="sum")
        if known is None:
            n_edges = len(labels) * int(count_edges(labels.shape[1:], self.offsets).sum())
            return total / max(1, n_edges)
        return total / known.sum().clamp(min=1)

    def _targets(self, checked: Checked) -> tuple[Tensor, Tensor | None]:
        """Return which edges lie within an object, and which are known (None: all that exist)."""
        values, *rest = checked
        labels, known, labelled = (None if x is None else like(x, values) for x in rest)
        target = same_object(labels, self.offsets)
        if labelled is not None:
            target &= same_object(labelled, self.offsets)
            unlabelled = same_object(~labelled, self.offsets)
            known = ~unlabelled if known is None else known & ~unlabelled
        return target, None if known is None else clear_outside(known, self.offsets)
