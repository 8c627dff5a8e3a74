"""From the edges that supervertices have picked to the supervertices of the next round."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from malis.kernels.launch import CHASE, FINISHED, block_of, launch

HOPS = 128  # pointers that one launch follows at most


def far_in_grid(
    key: Tensor, component: Tensor, far: Tensor, steps: Tensor, first: int, last: int
) -> None:
    """Find the far end of the picked edges of a grid, for supervertices `first` to `last`.

    Per supervertex, a key is read (8 bytes), the components of two voxels gathered (8), and the far
    end written (4).

    Parameters
    ----------
    key : (S,) int64 tensor
    component : (n,) int32 tensor
    far : (S,) int32 tensor
        Changed in place.
    steps : (C,) int64 tensor
    first, last : int
    """
    launch(_far_in_grid, last - first, 20, key, component, far, steps, len(component), first)


@triton.jit(do_not_specialize=["n_voxels", "first", "count"])
def _far_in_grid(key, component, far, steps, n_voxels, first, count, BLOCK: tl.constexpr):
    place, inside = block_of(count, BLOCK)
    own = first + place
    picked = tl.load(key + own, mask=inside, other=FINISHED)
    live = picked != FINISHED
    number = tl.where(live, picked & 0xFFFFFFFF, 0).to(tl.int32)
    channel = number // n_voxels
    source = number - channel * n_voxels
    target = source + tl.load(steps + channel, mask=live, other=0)
    _store_far(component, far, own, source, target, live, inside)


def far_in_list(
    key: Tensor,
    component: Tensor,
    far: Tensor,
    ends: tuple[Tensor, Tensor],
    first: int,
    last: int,
) -> None:
    """Find the far end of the picked edges of a list: `far_in_grid` and 8 gathered bytes more.

    Parameters
    ----------
    key, component, far, first, last
        As for `far_in_grid`.
    ends : two (E,) int32 tensors
        Of the edges in the order of their numbers.
    """
    launch(_far_in_list, last - first, 28, key, component, far, *ends, first)


@triton.jit(do_not_specialize=["first", "count"])
def _far_in_list(key, component, far, sources, targets, first, count, BLOCK: tl.constexpr):
    place, inside = block_of(count, BLOCK)
    own = first + place
    picked = tl.load(key + own, mask=inside, other=FINISHED)
    live = picked != FINISHED
    number = tl.where(live, picked & 0xFFFFFFFF, 0)
    source = tl.load(sources + number, mask=live, other=0)
    target = tl.load(targets + number, mask=live, other=0)
    _store_far(component, far, own, source, target, live, inside)


@triton.jit
def _store_far(component, far, own, source, target, live, inside):
    """Of the supervertices that an edge joins, store the one that is not `own`."""
    one = tl.load(component + source, mask=live, other=0)
    other = tl.load(component + target, mask=live, other=0)
    tl.store(far + own, tl.where(live, one + other - own, own).to(tl.int32), mask=inside)


def find_roots(key: Tensor, far: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Follow the picks of supervertices `first` to `last` to the root of their group.

    PyTorch's form jumps from pointer to pointer's pointer and asks after every other jump whether
    anything moved; the host waits for each answer. Here every supervertex walks on its own, at most
    128 steps in the first launch, then 128 of those, and so on. So the number of launches is known
    beforehand, without a question: one for 128 supervertices, three for 2^21, four for 2^28. Most
    paths take a few steps; over equal affinities they run along whole rows of voxels.

    Per supervertex, 4 bytes are read, 4 gathered per step, 5 written, and the key of a root read
    (8); each further launch reads 4, gathers 4 and writes 4.

    Parameters
    ----------
    key : (S,) int64 tensor
    far : (S,) int32 tensor
    first, last : int

    Returns
    -------
    root : (last - first,) int32 tensor
    live : (last - first,) bool tensor
        Marks the roots that are not finished.
    """
    count, reach = last - first, HOPS
    root = torch.empty(count, dtype=torch.int32, device=far.device)
    live = torch.empty(count, dtype=torch.uint8, device=far.device)
    launch(_find_roots, count, 21, key, far, root, live, HOPS, first, block=CHASE)
    while reach < count:  # every path is shorter than the round has supervertices
        further = torch.empty_like(root)
        launch(_follow, count, 12, root, further, HOPS, first, block=CHASE)
        root, reach = further, reach * HOPS
    return root, live.view(torch.bool)


@triton.jit(do_not_specialize=["most_hops", "first", "count"])
def _find_roots(key, far, root, live, most_hops, first, count, BLOCK: tl.constexpr):
    place, inside = block_of(count, BLOCK)
    own = (first + place).to(tl.int32)
    here = own
    there = tl.load(far + own, mask=inside, other=0)
    beyond = tl.load(far + there, mask=inside, other=0)
    going = inside & (beyond != here)  # no two here have picked each other, and none is finished
    hops = 0
    while (hops < most_hops) & (tl.max(going.to(tl.int32), axis=0) > 0):
        here = tl.where(going, there, here)
        there = tl.where(going, beyond, there)
        beyond = tl.load(far + there, mask=going, other=0)
        going = going & (beyond != here)
        hops += 1
    top = tl.where(going, here, tl.minimum(here, there))
    is_root = inside & (top == own)
    picked = tl.load(key + own, mask=is_root, other=FINISHED)
    tl.store(root + place, top, mask=inside)
    tl.store(live + place, (picked != FINISHED).to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["most_hops", "first", "count"])
def _follow(root, further, most_hops, first, count, BLOCK: tl.constexpr):
    place, inside = block_of(count, BLOCK)
    here = tl.load(root + place, mask=inside, other=0)
    above = tl.load(root + (here - first), mask=inside, other=0)
    going = inside & (above != here)
    hops = 0
    while (hops < most_hops) & (tl.max(going.to(tl.int32), axis=0) > 0):
        here = tl.where(going, above, here)
        above = tl.load(root + (here - first), mask=going, other=0)
        going = going & (above != here)
        hops += 1
    tl.store(further + place, here, mask=inside)


def number_parents(
    key: Tensor, root: Tensor, numbers: Tensor, parent: Tensor, first: int, last: int
) -> None:
    """Give the supervertices `first` to `last` the numbers of their groups in the next round.

    Per supervertex, 12 bytes are read, 4 gathered and 4 written.

    Parameters
    ----------
    key : (S,) int64 tensor
    root : (last - first,) int32 tensor
    numbers : (last - first,) int32 tensor
        How many roots there are up to each supervertex, itself included.
    parent : (S,) int32 tensor
        Changed in place.
    first, last : int
    """
    launch(_number_parents, last - first, 20, key, root, numbers, parent, first)


@triton.jit(do_not_specialize=["first", "count"])
def _number_parents(key, root, numbers, parent, first, count, BLOCK: tl.constexpr):
    place, inside = block_of(count, BLOCK)
    own = first + place
    live = tl.load(key + own, mask=inside, other=FINISHED) != FINISHED
    top = tl.load(root + place, mask=live, other=0)
    number = tl.load(numbers + (top - first), mask=live, other=0)
    last = first + count
    tl.store(parent + own, tl.where(live, last - 1 + number, own).to(tl.int32), mask=inside)
