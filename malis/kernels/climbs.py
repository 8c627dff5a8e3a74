"""Climbs up the finished hierarchy, each in one launch: at most as high as there are rounds."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from malis.kernels.launch import CHASE, block_of, launch


def first_weaker(parent: Tensor, pick_ranks: Tensor, owners: Tensor) -> Tensor:
    """Climb from the owner of every merge to its first ancestor that picks a weaker edge.

    PyTorch's form climbs one round at a time and lists who has to go on; the host waits each time.
    Here all climb in one launch, at most as high as there are rounds. Per merge, 8 bytes are read,
    8 gathered per round climbed, and 4 written.

    Parameters
    ----------
    parent : (S,) int32 tensor
    pick_ranks : (>= S,) int32 tensor
        Place of every supervertex's pick in Kruskal's order; M where it is finished.
    owners : (M,) int64 tensor
        In Kruskal's order.

    Returns
    -------
    (M,) int32 tensor
    """
    chains = torch.empty(len(owners), dtype=torch.int32, device=owners.device)
    launch(_climb, len(owners), 20, parent, pick_ranks, owners, chains, block=CHASE)
    return chains


@triton.jit(do_not_specialize=["count"])
def _climb(parent, pick_ranks, owners, chains, count, BLOCK: tl.constexpr):
    rank, inside = block_of(count, BLOCK)
    owner = tl.load(owners + rank, mask=inside, other=0)
    here = tl.load(parent + owner, mask=inside, other=0)
    going = inside & (tl.load(pick_ranks + here, mask=inside, other=0) < rank)
    while tl.max(going.to(tl.int32), axis=0) > 0:
        here = tl.where(going, tl.load(parent + here, mask=going, other=0), here)
        going = going & (tl.load(pick_ranks + here, mask=going, other=0) < rank)
    tl.store(chains + rank, here, mask=inside)


def weakest_links(parent: Tensor, picks: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Find the weakest pick of pairs of vertices up to where they meet: one launch, no wait.

    Per pair, 16 bytes are read, 2 picks gathered (8 or 16 bytes) and 2 parents (8) per round
    climbed, and one pick written.

    Parameters
    ----------
    parent : (S,) int32 tensor
    picks : (S,) int32 or int64 tensor
        Ascending from strong to weak; largest for finished ones.
    one, other : (P,) integer tensors

    Returns
    -------
    (P,) tensor like picks
    """
    one, other = one.contiguous(), other.contiguous()
    weakest = torch.empty(len(one), dtype=picks.dtype, device=picks.device)
    moved = 24 + 3 * picks.element_size()
    arguments = (parent, picks, picks.max(), one, other, weakest)
    launch(_find_links, len(one), moved, *arguments, block=CHASE)
    return weakest


@triton.jit(do_not_specialize=["count"])
def _find_links(parent, picks, finished, ones, others, weakest, count, BLOCK: tl.constexpr):
    pair, inside = block_of(count, BLOCK)
    one = tl.load(ones + pair, mask=inside, other=0).to(tl.int32)
    other = tl.load(others + pair, mask=inside, other=0).to(tl.int32)
    last = tl.load(finished)
    link = tl.load(picks + one, mask=inside, other=0)
    link = tl.maximum(link, tl.load(picks + other, mask=inside, other=0))
    going = inside
    while tl.max(going.to(tl.int32), axis=0) > 0:
        one = tl.load(parent + one, mask=going, other=0)
        other = tl.load(parent + other, mask=going, other=0)
        going = going & (one != other) & (link != last)
        pick = tl.load(picks + one, mask=going, other=0)
        pick = tl.maximum(pick, tl.load(picks + other, mask=going, other=0))
        link = tl.where(going, tl.maximum(link, pick), link)
    tl.store(weakest + pair, link, mask=inside)
