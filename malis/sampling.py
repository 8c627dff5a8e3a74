"""Random voxel pairs for the loss of Turaga et al. 2009.

There are N(N-1)/2 pairs of N voxels, and nearly all of them lie in two different objects. Sampling
half of the pairs within objects and half across keeps either kind from drowning the other.

`sample_pairs` draws from one volume with NumPy, `sample_batch` from all volumes of a batch on the
device where they are: the same distribution, other pairs.
"""

import numpy as np
import torch
from torch import Tensor


def sample_pairs(
    labels: np.ndarray, n_pairs: int, rng: np.random.Generator, *, balanced: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of voxels that are not background, independently and with replacement.

    Parameters
    ----------
    labels : (*spatial) integer array
        Object ids, 0 = background.
    n_pairs : int
        Number of pairs to draw.
    rng : np.random.Generator
    balanced : bool
        Draw half of the pairs uniformly from all pairs of one object and half uniformly from all
        pairs of two (if one kind does not exist, all from the other); otherwise all uniformly from
        all pairs.

    Returns
    -------
    pairs : (P, 2) int64 array
        Flat C-order voxel indices; P = `n_pairs`, or 0 where no pair exists.
    same : (P,) bool array
        Whether both voxels carry one label.
    """
    flat = labels.ravel()
    voxels = np.flatnonzero(flat)
    voxels = voxels[np.argsort(flat[voxels], kind="stable")]  # one block of voxels per label
    n_voxels = len(voxels)
    if n_voxels < 2 or n_pairs == 0:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=bool)
    if not balanced:
        first, second = _two_of(np.full(n_pairs, n_voxels), rng)
        pairs = np.stack([voxels[first], voxels[second]], axis=1)
        return pairs, flat[pairs[:, 0]] == flat[pairs[:, 1]]

    starts = np.flatnonzero(np.concatenate([[True], np.diff(flat[voxels]) != 0]))
    sizes = np.diff(np.append(starts, n_voxels))
    same_weights, different_weights = sizes * (sizes - 1), sizes * (n_voxels - sizes)
    n_same = n_pairs // 2
    if not same_weights.any():
        n_same = 0
    elif not different_weights.any():
        n_same = n_pairs

    block = _draw_blocks(same_weights, n_same, rng)
    first, second = _two_of(sizes[block], rng)
    same_pairs = voxels[starts[block] + first], voxels[starts[block] + second]

    block = _draw_blocks(different_weights, n_pairs - n_same, rng)
    first = starts[block] + rng.integers(sizes[block])
    second = rng.integers(n_voxels - sizes[block])  # a place among the voxels of other blocks
    second += np.where(second >= starts[block], sizes[block], 0)
    different_pairs = voxels[first], voxels[second]

    pairs = np.concatenate([np.stack(same_pairs, axis=1), np.stack(different_pairs, axis=1)])
    return pairs, np.arange(n_pairs) < n_same


def _draw_blocks(weights: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw block numbers with probabilities proportional to integer weights, exactly."""
    if n_draws == 0:
        return np.zeros(0, dtype=np.int64)
    total = np.cumsum(weights)
    return np.searchsorted(total, rng.integers(total[-1], size=n_draws), side="right")


def _two_of(sizes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two different places in each of many blocks of the given sizes."""
    first = rng.integers(sizes)
    second = rng.integers(sizes - 1)
    return first, second + (second >= first)


def sample_batch(
    labels: Tensor, n_pairs: int, generator: torch.Generator, *, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw pairs from every volume of a batch, each as `sample_pairs` does.

    Parameters
    ----------
    labels : (B, *spatial) int64 tensor
        Object ids, 0 = background; negative ones are ids too.
    n_pairs : int
        Number of pairs to draw from every volume.
    generator : torch.Generator
        On the device of the labels.
    balanced : bool
        See `sample_pairs`.

    Returns
    -------
    pairs : (P, 2) int64 tensor
        Flat C-order indices into the batch, volume by volume; none where a volume has no pair.
    same : (P,) bool tensor
        Whether both voxels carry one label.
    """
    n_samples, flat = len(labels), labels.flatten()
    voxels = flat.nonzero().squeeze(1)
    if len(voxels) == 0:
        return voxels.new_zeros(0, 2), voxels.new_zeros(0, dtype=torch.bool)
    voxels = voxels[flat[voxels].sort(stable=True).indices]
    volume, order = (voxels // labels[0].numel()).sort(stable=True)
    voxels = voxels[order]  # volume by volume, and within one a block of voxels per label
    ids = flat[voxels]
    opens = torch.ones_like(ids, dtype=torch.bool)
    opens[1:] = (ids[1:] != ids[:-1]) | (volume[1:] != volume[:-1])
    starts = opens.nonzero().squeeze(1)
    sizes = torch.diff(starts, append=starts.new_full((1,), len(voxels)))
    owner = volume[starts]

    def per_volume(of_blocks: Tensor) -> Tensor:
        return of_blocks.new_zeros(n_samples).scatter_add_(0, owner, of_blocks)

    def draw(limits: Tensor) -> Tensor:
        """Draw below every limit; 63 random bits make the rounding to a limit immaterial."""
        bits = torch.randint(2**63 - 1, limits.shape, generator=generator, device=limits.device)
        return bits % limits.clamp(min=1)

    def draw_blocks(weights: Tensor) -> Tensor:
        sums = per_volume(weights)
        before = sums.cumsum(0) - sums
        places = draw(sums[:, None].expand(-1, n_pairs)) + before[:, None]
        return torch.searchsorted(weights.cumsum(0), places, right=True).clamp_(max=len(sizes) - 1)

    totals = per_volume(sizes)
    others = totals[owner] - sizes
    n_within, n_across = per_volume(sizes * (sizes - 1)), per_volume(sizes * others)
    if balanced:
        n_same = torch.where(n_across == 0, n_pairs, n_pairs // 2).masked_fill_(n_within == 0, 0)
        same = torch.arange(n_pairs, device=labels.device) < n_same[:, None]
        within, across = draw_blocks(sizes * (sizes - 1)), draw_blocks(sizes * others)
        block = torch.where(same, within, across)
        begin, size = starts[block], sizes[block]
        first = begin + draw(size)
        partner = begin + draw(size - 1)
        partner = partner + (partner >= first)
        stranger = (totals.cumsum(0) - totals)[:, None] + draw(others[block])
        stranger = stranger + torch.where(stranger >= begin, size, 0)
        second = torch.where(same, partner, stranger)
    else:
        total = totals[:, None].expand(-1, n_pairs)
        begin = totals.cumsum(0)[:, None] - total
        first, second = begin + draw(total), begin + draw(total - 1)
        second = second + (second >= first)
    drawn = (n_within + n_across > 0)[:, None].expand(-1, n_pairs)
    pairs = torch.stack([voxels[first[drawn]], voxels[second[drawn]]], dim=1)
    return pairs, flat[pairs[:, 0]] == flat[pairs[:, 1]]
