r"""The losses: maximin affinity learning in its two forms.

All are called alike, ``loss(affinities, labels)``, with affinities in [0, 1], or with logits where
they are made with ``from_logits=True``. All put a loss on single edges, and differ in which edges
count and how much:

=====================  =============================================================================
`MaximinLoss`          the maximin edges of sampled voxel pairs (Turaga et al. 2009)
`MalisLoss`            every edge of the maximin tree, weighted by all pairs that it decides
                       (Funke et al. 2019)
`AffinityCrossEntropy` every edge alike
=====================  =============================================================================

The weights come from the affinities but are constants to the gradient: a small change of the
affinities does not change the order of the edges.
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from malis._checks import (
    BACKENDS,
    Array,
    Checked,
    Offsets,
    as_numpy,
    check_offsets,
    check_prediction,
    choose_backend,
    clear_outside,
    like,
    uncompiled,
)
from malis.affinity import as_numbers, count_edges, same_object
from malis.edge_loss import EDGE_LOSSES, at_least_float32, edge_losses
from malis.maximin import host_edges
from malis.pairs import count_pairs
from malis.sampling import sample_pairs

NORMALISATIONS = ("none", "pass", "pairs")
REDUCTIONS = ("mean", "sum", "none")


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


@uncompiled
def malis_weights(
    affinities: Tensor,
    labels: Tensor,
    offsets: Offsets,
    *,
    constrained: bool = True,
    normalise: str = "pass",
    positive_weight: float = 1.0,
    edge_mask: Tensor | None = None,
    labelled_mask: Tensor | None = None,
    from_logits: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Weigh every edge by the pairs that it decides, for an edge loss of your own.

    With the pair counts :math:`w^\pm_e` of `pair_counts`, the weights are

    .. math:: \lambda\, w^+_e / Z^+ \quad\text{and}\quad w^-_e / Z^-

    where `normalise` chooses

    - ``"none"``: :math:`Z^\pm = 1`, the raw counts;
    - ``"pass"``: :math:`Z^\pm = \sum_e w^\pm_e`, each pass by its own sum, as TuragaLab's program
      (a pass without pairs stays 0);
    - ``"pairs"``: :math:`Z^\pm = N(N-1)/2` for the sample's N voxels that are not background.

    Parameters
    ----------
    affinities : (B, C, *spatial) float tensor
        Predicted affinities in [0, 1].
    labels : (B, *spatial) integer tensor
        Object ids, 0 = background.
    offsets : (C, ndim) integers
    constrained : bool
        See `pair_counts`.
    normalise : {"pass", "none", "pairs"}
    positive_weight : float
        :math:`\lambda`, weight of the pairs of one object relative to those of two.
    edge_mask, labelled_mask : tensors, optional
    from_logits : bool
    backend : str
        See `pair_counts`.

    Returns
    -------
    positive, negative : (B, C, *spatial) tensors
        float64 where the affinities are, else float32; no gradient flows through them.

    Raises
    ------
    ValueError, TypeError
        As `pair_counts`, and for an unknown `normalise`.

    References
    ----------
    Funke et al., IEEE TPAMI 41(7), 2019, section 3.2.
    """
    _check_choice("normalise", normalise, NORMALISATIONS)
    offsets = check_offsets(offsets)
    arguments = affinities, labels, offsets, edge_mask, labelled_mask
    checked = check_prediction(*arguments, batched=True, from_logits=from_logits)
    counts = count_pairs(checked, offsets, constrained, backend)
    return _weigh(counts, checked, normalise, positive_weight, affinities.dtype)


def _weigh(
    counts: tuple[Array, Array],
    checked: Checked,
    normalise: str,
    positive_weight: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Turn pair counts into weights, in float64 where they were counted."""
    values, labels, _, labelled = checked
    positive, negative = (torch.as_tensor(count).double() for count in counts)
    if normalise == "pass":
        positive = positive / _sample_sums(positive).clamp(min=1)
        negative = negative / _sample_sums(negative).clamp(min=1)
    elif normalise == "pairs":
        foreground = labels != 0 if labelled is None else (labels != 0) | ~labelled
        n_voxels = _sample_sums(foreground)[:, None].to(positive.device).double()
        n_pairs = (n_voxels * (n_voxels - 1) / 2).clamp(min=1)
        positive, negative = positive / n_pairs, negative / n_pairs
    dtype = torch.promote_types(dtype, torch.float32)
    weights = positive_weight * positive, negative
    return tuple(weight.to(dtype).to(values.device) for weight in weights)


class MalisLoss(AffinityLoss):
    r"""The MALIS loss over all pairs of voxels (Funke et al. 2019).

    .. math:: L = \sum_e \big[ \lambda\, \tfrac{w^+_e}{Z^+}\, \ell(a_e)
                             + \tfrac{w^-_e}{Z^-}\, \ell(1 - a_e) \big]

    with the pair counts :math:`w^\pm` of `malis.pair_counts`, the normalisation :math:`Z^\pm` and
    weight :math:`\lambda` of `malis.malis_weights`, and the edge loss

    - ``"squared"``: :math:`\ell(a) = (1 - a)^2`;
    - ``"squared_hinge"``: :math:`\ell(a) = \max(0,\, 1 - a - m)^2`;
    - ``"cross_entropy"``: :math:`\ell(a) = -\log a`.

    Parameters
    ----------
    offsets : (C, ndim) integers
        Edge of every channel; see `malis.nearest_offsets`.
    constrained : bool
        Count positive pairs with boundary edges at 0 and negative pairs with inner edges at 1.
    normalise : {"pass", "none", "pairs"}
    edge_loss : {"squared", "squared_hinge", "cross_entropy"}
    margin : float
        m of the squared hinge, in [0, 1).
    positive_weight : float
        :math:`\lambda`, at least 0.
    reduction : {"mean", "sum", "none"}
        Over the samples of a batch; ``"none"`` returns one loss each.
    from_logits : bool
        Whether it is called with logits: they order the edges, and :math:`a` is their sigmoid.
    backend : {"auto", "higra", "numba", "parallel"}
        See `malis.pair_counts`.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    Funke et al., IEEE TPAMI 41(7), 2019, section 3.2.

    Examples
    --------
    >>> loss = MalisLoss([(-1, 0), (0, -1)])
    >>> affinities = torch.rand(2, 2, 32, 32, requires_grad=True)
    >>> labels = torch.randint(0, 4, (2, 32, 32))
    >>> loss(affinities, labels).backward()
    """

    def __init__(
        self,
        offsets: Offsets,
        *,
        constrained: bool = True,
        normalise: str = "pass",
        edge_loss: str = "squared",
        margin: float = 0.3,
        positive_weight: float = 1.0,
        reduction: str = "mean",
        from_logits: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.offsets = check_offsets(offsets)
        self.constrained = constrained
        self.normalise = _check_choice("normalise", normalise, NORMALISATIONS)
        self.edge_loss = _check_choice("edge_loss", edge_loss, EDGE_LOSSES)
        self.margin = _check_range("margin", margin, 0, 1)
        self.positive_weight = _check_range("positive_weight", positive_weight, 0, float("inf"))
        self.reduction = _check_choice("reduction", reduction, REDUCTIONS)
        self.from_logits = from_logits
        self.backend = _check_choice("backend", backend, BACKENDS)

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        positive, negative = self._weights(affinities, labels, masks)
        within = clear_outside(affinities, self.offsets)
        charges = edge_losses(within, self.edge_loss, self.margin, self.from_logits)
        losses = positive * charges[0] + negative * charges[1]
        return _reduce(losses.flatten(1).sum(1), self.reduction)

    @uncompiled
    def _weights(
        self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Check the input, count its pairs, and weigh the edges."""
        options = {"batched": True, "from_logits": self.from_logits}
        checked = check_prediction(affinities, labels, self.offsets, **masks, **options)
        counts = count_pairs(checked, self.offsets, self.constrained, self.backend)
        return _weigh(counts, checked, self.normalise, self.positive_weight, affinities.dtype)


class MaximinLoss(AffinityLoss):
    r"""The maximin loss over sampled pairs of voxels (Turaga et al. 2009).

    .. math:: L = \frac{1}{P} \sum_{(u,v)} \begin{cases}
                  \ell(a_{mm(u,v)}) & \text{u and v in one object} \\
                  \ell(1 - a_{mm(u,v)}) & \text{in two} \end{cases}

    where :math:`mm(u,v)` is the maximin edge of the pair. The edge losses are those of `MalisLoss`;
    the paper's is the squared hinge with margin 0.3.

    Parameters
    ----------
    offsets : (C, ndim) integers
        Edge of every channel.
    n_pairs : int
        P, number of pairs sampled from every volume of a batch.
    margin : float
        m of the squared hinge, in [0, 1).
    edge_loss : {"squared_hinge", "squared", "cross_entropy"}
    balanced : bool
        Half of the pairs within objects, half across; otherwise uniformly from all pairs.
    reduction : {"mean", "sum", "none"}
        Over the pairs; ``"none"`` returns the loss of every pair of the batch.
    from_logits : bool
        Whether it is called with logits, see `MalisLoss`.
    generator : torch.Generator, optional
        Source of the pairs; torch's global CPU generator by default.
    backend : {"auto", "higra", "numba", "parallel"}
        See `malis.pair_counts`. "parallel" also draws the pairs on the device of the affinities:
        the same distribution, other pairs.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Notes
    -----
    A patch without a pair (background only) contributes nothing; if none has one, the loss is 0.
    Masks are refused.

    References
    ----------
    Turaga et al., NIPS 2009, section 3.
    """

    def __init__(
        self,
        offsets: Offsets,
        *,
        n_pairs: int = 1000,
        margin: float = 0.3,
        edge_loss: str = "squared_hinge",
        balanced: bool = True,
        reduction: str = "mean",
        from_logits: bool = False,
        generator: torch.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if n_pairs < 1:
            raise ValueError(f"n_pairs must be at least 1, got {n_pairs}")
        self.offsets = check_offsets(offsets)
        self.n_pairs = n_pairs
        self.margin = _check_range("margin", margin, 0, 1)
        self.edge_loss = _check_choice("edge_loss", edge_loss, EDGE_LOSSES)
        self.balanced = balanced
        self.reduction = _check_choice("reduction", reduction, REDUCTIONS)
        self.generator = generator
        self.from_logits = from_logits
        self.backend = _check_choice("backend", backend, BACKENDS)

    def _evaluate(self, affinities: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
        if masks:
            raise TypeError(f"MaximinLoss takes no {' and no '.join(masks)}")
        edges, same = self._sample(affinities, labels)
        joined = edges[:, 0] >= 0
        values = affinities[tuple(edges[joined].T)]
        charges = edge_losses(values, self.edge_loss, self.margin, self.from_logits)
        loss = torch.where(same[joined], *charges)
        if loss.numel() == 0 and self.reduction == "mean":
            return loss.sum()
        return _reduce(loss, self.reduction)

    @uncompiled
    def _sample(self, affinities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Draw pairs; return sample, channel and voxel of their maximin edges, and their kind."""
        options = {"batched": True, "from_logits": self.from_logits}
        checked = check_prediction(affinities, labels, self.offsets, **options)
        backend = choose_backend(self.backend, checked.values, self.offsets)
        if backend == "parallel":
            from malis.tensor_backend import as_tensors, parallel_maximin_edges, sample_batch

            values, labels, *_ = as_tensors(checked)
            generator = torch.Generator(values.device).manual_seed(self._draw_seed())
            pairs, same = sample_batch(labels, self.n_pairs, generator, balanced=self.balanced)
            edges = parallel_maximin_edges(values, self.offsets, pairs)
            return like(edges, affinities), like(same, affinities)
        rng = np.random.default_rng(self._draw_seed())
        edges, kinds = [], []
        samples = zip(as_numpy(checked.values), as_numpy(labels), strict=True)
        for index, (volume, ids) in enumerate(samples):
            pairs, same = sample_pairs(ids, self.n_pairs, rng, balanced=self.balanced)
            found = host_edges(volume, self.offsets, pairs, backend)
            edges.append(np.insert(found, 0, np.where(found[:, 0] < 0, -1, index), axis=1))
            kinds.append(same)
        return like(np.concatenate(edges), affinities), like(np.concatenate(kinds), affinities)

    def _draw_seed(self) -> int:
        """Draw a seed from torch's generator, whose state a checkpoint keeps."""
        device = self.generator.device if self.generator else "cpu"
        return int(torch.randint(2**63 - 1, (), generator=self.generator, device=device))


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


def _sample_sums(volumes: Tensor) -> Tensor:
    """Sum each sample of a batch; shaped to divide the batch."""
    return volumes.flatten(1).sum(1).view(-1, *[1] * (volumes.ndim - 1))


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else getattr(losses, reduction)()


def _check_choice(name: str, value: str, choices: Collection[str]) -> str:
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(choices)}, got "{value}"')
    return value


def _check_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low}, {high}), got {value}")
    return float(value)
