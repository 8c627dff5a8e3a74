r"""What a single edge costs: add an edge loss here.

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
from torch import Tensor
from torch.nn import functional as F

EDGE_LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "squared": lambda affinity, margin: (1 - affinity) ** 2,
    "squared_hinge": lambda affinity, margin: (1 - affinity - margin).clamp(min=0) ** 2,
    "cross_entropy": lambda affinity, margin: F.binary_cross_entropy(
        affinity, torch.ones_like(affinity), reduction="none"
    ),
}
# Those that have a better form for logits.
LOGIT_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
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
