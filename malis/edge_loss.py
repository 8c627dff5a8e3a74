r"""What a single edge is charged, and cross-entropy: every edge charged alike.

An edge within an object should have affinity 1 and is charged :math:`\ell(a)`; an edge between two
objects should have affinity 0 and is charged :math:`\ell(1 - a)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from malis._checks import (
    Offsets,
    check_batch,
    check_offsets,
    check_unit_interval,
    clear_outside,
    mask_tensor,
)
from malis.affinity import affinities_from_labels, existing_edges

EDGE_LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "squared": lambda affinity, margin: (1 - affinity) ** 2,
    "squared_hinge": lambda affinity, margin: (1 - affinity - margin).clamp(min=0) ** 2,
    "cross_entropy": lambda affinity, margin: F.binary_cross_entropy(
        affinity, torch.ones_like(affinity), reduction="none"
    ),
}


def edge_losses(affinities: Tensor, edge_loss: str, margin: float) -> tuple[Tensor, Tensor]:
    """Compute what every edge is charged within an object, and between two.

    Parameters
    ----------
    affinities : float tensor of any shape
        In [0, 1].
    edge_loss : str
        A key of `EDGE_LOSSES`.
    margin : float
        Of the squared hinge.

    Returns
    -------
    same, different : tensors of that shape
        At least float32, outside of any autocast.
    """
    with torch.autocast(affinities.device.type, enabled=False):
        values = affinities.to(torch.promote_types(affinities.dtype, torch.float32)).clamp(0, 1)
        loss = EDGE_LOSSES[edge_loss]
        return loss(values, margin), loss(1 - values, margin)


class AffinityCrossEntropy(nn.Module):
    r"""Binary cross-entropy over all edges: the affinity loss without any notion of a segment.

    .. math:: L = -\frac{1}{|E|} \sum_{e \in E} \big[ t_e \log a_e + (1 - t_e) \log(1 - a_e) \big]

    over the edges E that exist and are known, with the affinities t of the labels.

    Parameters
    ----------
    offsets : (C, ndim) integers
        Edge of every channel.
    """

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = check_offsets(offsets)

    def forward(
        self,
        affinities: Tensor,
        labels: Tensor,
        edge_mask: Tensor | None = None,
        labelled_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the mean cross-entropy of predicted affinities.

        Parameters
        ----------
        affinities : (B, C, *spatial) float tensor
            In [0, 1].
        labels : (B, *spatial) integer tensor
            Object ids, 0 = background.
        edge_mask : (B, C, *spatial) tensor, optional
            1 = known, 0 = unknown edge.
        labelled_mask : (B, *spatial) tensor, optional
            1 = labelled, 0 = unlabelled voxel. As in `malis.pair_counts`, unlabelled voxels form
            one further object with unknown inner edges.

        Returns
        -------
        0-dimensional Tensor
            At least float32; 0 where no edge is known.

        Raises
        ------
        ValueError
            If shapes disagree, or the affinity of an edge is not finite or not in [0, 1].
        TypeError
            If affinities are not floating-point numbers or labels not integers.
        """
        check_batch(affinities, labels, self.offsets)
        if not affinities.is_floating_point():
            raise TypeError(f"affinities must be floating-point numbers, got {affinities.dtype}")
        within = clear_outside(affinities, self.offsets)
        low, high = torch.stack(within.detach().float().aminmax()).tolist()
        check_unit_interval(low, high, torch.finfo(affinities.dtype).eps)
        device = affinities.device
        known = mask_tensor(edge_mask, tuple(affinities.shape), "edge_mask", device)
        labelled = mask_tensor(labelled_mask, tuple(labels.shape), "labelled_mask", device)
        target = affinities_from_labels(labels, self.offsets).to(device)
        if labelled is not None:
            within_it, beside_it = (
                affinities_from_labels(voxels.to(torch.uint8), self.offsets)
                for voxels in (labelled, ~labelled)
            )
            target = target * within_it
            known = beside_it == 0 if known is None else known & (beside_it == 0)
        same, different = edge_losses(within, "cross_entropy", 0.0)
        losses = target * same + (1 - target) * different
        exists = torch.from_numpy(existing_edges(labels.shape[1:], self.offsets)).to(device)
        losses = losses[:, exists] if known is None else losses[known & exists]
        return losses.sum() / max(1, losses.numel())
