"""Random voxel pairs of a whole batch, drawn on the device where it is.

The same distribution as `malis.sampling.sample_pairs`, other pairs.
"""

import torch
from torch import Tensor


def sample_batch(
    labels: Tensor, n_pairs: int, generator: torch.Generator, *, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw pairs from every volume of a batch, each as `malis.sampling.sample_pairs` does.

    Labels are int64, negative ones too; the generator is on their device.

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
