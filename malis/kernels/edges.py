"""The strongest edge of every supervertex, and the edges that are left between groups."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from malis.kernels.launch import FINISHED, block_of, launch


def pick_in_grid(codes: Tensor, taken: Tensor, steps: Tensor, key: Tensor) -> None:
    """Find the strongest edge of every voxel of a grid: one launch for all channels.

    Per voxel and channel, the code (4 bytes) and the mark (1) of two edges are read, one of them
    from a cache that another voxel has filled; per voxel, a key (8) is written.

    Parameters
    ----------
    codes : (C, *shape) int32 tensor
    taken : (C, *shape) bool tensor
        No edge that leaves the volume.
    steps : (C,) int64 tensor
        From a voxel to the other end of its edge, in flat indices.
    key : (>= n,) int64 tensor
        Receives the keys of the n voxels.
    """
    n_channels, n_voxels = len(codes), codes[0].numel()
    marks = taken.contiguous().view(torch.uint8)
    launch(_pick_in_grid, n_voxels, 5 * n_channels + 8, codes, marks, steps, key, n_channels)


@triton.jit(do_not_specialize=["n_channels", "n_voxels"])
def _pick_in_grid(codes, marks, steps, key, n_channels, n_voxels, BLOCK: tl.constexpr):
    voxel, inside = block_of(n_voxels, BLOCK)
    strongest = tl.full([BLOCK], FINISHED, tl.int64)
    for channel in range(n_channels):
        before = voxel - tl.load(steps + channel)  # owns the edge that ends in this voxel
        first = channel * n_voxels
        owned = _grid_key(codes, marks, first + voxel, inside)
        before_exists = inside & (before >= 0) & (before < n_voxels)
        ending = _grid_key(codes, marks, first + before, before_exists)
        strongest = tl.minimum(strongest, tl.minimum(owned, ending))
    tl.store(key + voxel, strongest, mask=inside)


@triton.jit
def _grid_key(codes, marks, number, exists):
    """Return the keys of edges of the grid; FINISHED where they are not taken."""
    exists = exists & (tl.load(marks + number, mask=exists, other=0) != 0)
    code = tl.load(codes + number, mask=exists, other=0).to(tl.int64)
    return tl.where(exists, (code << 32) | number, FINISHED)


def pick_in_list(key: Tensor, sources: Tensor, targets: Tensor, keys: Tensor) -> None:
    """Lower the keys of supervertices to the least key of their edges.

    Per edge, its ends and its key are read (16 bytes) and two keys gathered (16). The few that are
    still larger are lowered in the memory itself, by an atomic minimum, which GPUs have for signed
    64-bit integers. (PyTorch's own repeats a compare-and-swap until it wins.) The key read before
    may be outdated, but never too small, so no edge is missed.

    Parameters
    ----------
    key : (S,) int64 tensor
        Changed in place.
    sources, targets : (E,) int32 tensors
    keys : (E,) int64 tensor
    """
    launch(_pick_in_list, len(keys), 32, key, sources, targets, keys)


@triton.jit(do_not_specialize=["n_edges"])
def _pick_in_list(key, sources, targets, keys, n_edges, BLOCK: tl.constexpr):
    edge, inside = block_of(n_edges, BLOCK)
    own = tl.load(keys + edge, mask=inside, other=FINISHED)
    _lower(key, tl.load(sources + edge, mask=inside, other=0), own, inside)
    _lower(key, tl.load(targets + edge, mask=inside, other=0), own, inside)


@triton.jit
def _lower(key, end, own, inside):
    best = tl.load(key + end, mask=inside, other=0, cache_modifier=".cg")  # where atomics happen
    tl.atomic_min(key + end, own, mask=inside & (own < best), sem="relaxed")


def surviving_in_grid(
    codes: Tensor, taken: Tensor, steps: Tensor, component: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """List the edges of a grid between two components; the host waits once, for their number.

    Per edge, a mark is read and one written (2 bytes) and, if it is taken, two components gathered
    (8); per survivor, its number and its code are read (12), the components gathered again (8),
    and 16 bytes written.

    Parameters
    ----------
    codes : (C, *shape) int32 tensor
    taken : (C, *shape) bool tensor
    steps : (C,) int64 tensor
    component : (n,) int32 tensor

    Returns
    -------
    sources, targets : (E,) int32 tensors
        Components.
    keys : (E,) int64 tensor
        Ascending numbers of edges.
    """
    n_voxels, n_edges = len(component), codes.numel()
    marks = taken.contiguous().view(torch.uint8).flatten()
    apart = torch.empty_like(marks)
    launch(_mark_in_grid, n_edges, 10, marks, steps, component, apart, n_voxels)
    chosen = apart.nonzero().squeeze(1)
    sources, targets, keys = _new_edges(len(chosen), codes.device)
    arguments = (chosen, codes, steps, component, sources, targets, keys, n_voxels)
    launch(_list_in_grid, len(chosen), 36, *arguments)
    return sources, targets, keys


@triton.jit
def _grid_ends(number, steps, component, n_voxels, inside):
    """Return the components that edges of the grid join."""
    channel = number // n_voxels
    source = number - channel * n_voxels
    target = source + tl.load(steps + channel, mask=inside, other=0)
    return (
        tl.load(component + source, mask=inside, other=0),
        tl.load(component + target, mask=inside, other=0),
    )


@triton.jit(do_not_specialize=["n_voxels", "n_edges"])
def _mark_in_grid(marks, steps, component, apart, n_voxels, n_edges, BLOCK: tl.constexpr):
    edge, inside = block_of(n_edges, BLOCK)
    taken = inside & (tl.load(marks + edge, mask=inside, other=0) != 0)
    one, other = _grid_ends(edge.to(tl.int32), steps, component, n_voxels, taken)
    tl.store(apart + edge, (one != other).to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["n_voxels", "count"])
def _list_in_grid(
    chosen, codes, steps, component, sources, targets, keys, n_voxels, count, BLOCK: tl.constexpr
):
    place, inside = block_of(count, BLOCK)
    number = tl.load(chosen + place, mask=inside, other=0)
    one, other = _grid_ends(number.to(tl.int32), steps, component, n_voxels, inside)
    code = tl.load(codes + number, mask=inside, other=0).to(tl.int64)
    tl.store(sources + place, one, mask=inside)
    tl.store(targets + place, other, mask=inside)
    tl.store(keys + place, (code << 32) | number, mask=inside)


def surviving_in_list(
    parent: Tensor, sources: Tensor, targets: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace the ends of edges by their parents and drop those that lie within one.

    Per edge, 8 bytes are read, 8 gathered and 1 written; per survivor, 24 are read, 8 gathered and
    16 written. The host waits once.

    Parameters
    ----------
    parent : (S,) int32 tensor
    sources, targets : (E,) int32 tensors
    keys : (E,) int64 tensor

    Returns
    -------
    sources, targets, keys : tensors
        Of the survivors, in their order.
    """
    apart = torch.empty(len(keys), dtype=torch.uint8, device=keys.device)
    launch(_mark_in_list, len(keys), 17, parent, sources, targets, apart)
    chosen = apart.nonzero().squeeze(1)
    new = _new_edges(len(chosen), keys.device)
    launch(_list_in_list, len(chosen), 48, chosen, parent, sources, targets, keys, *new)
    return new


@triton.jit(do_not_specialize=["n_edges"])
def _mark_in_list(parent, sources, targets, apart, n_edges, BLOCK: tl.constexpr):
    edge, inside = block_of(n_edges, BLOCK)
    one = tl.load(parent + tl.load(sources + edge, mask=inside, other=0), mask=inside, other=0)
    other = tl.load(parent + tl.load(targets + edge, mask=inside, other=0), mask=inside, other=0)
    tl.store(apart + edge, (one != other).to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _list_in_list(
    chosen,
    parent,
    sources,
    targets,
    keys,
    new_sources,
    new_targets,
    new_keys,
    count,
    BLOCK: tl.constexpr,
):
    place, inside = block_of(count, BLOCK)
    edge = tl.load(chosen + place, mask=inside, other=0)
    source = tl.load(sources + edge, mask=inside, other=0)
    target = tl.load(targets + edge, mask=inside, other=0)
    tl.store(new_sources + place, tl.load(parent + source, mask=inside, other=0), mask=inside)
    tl.store(new_targets + place, tl.load(parent + target, mask=inside, other=0), mask=inside)
    tl.store(new_keys + place, tl.load(keys + edge, mask=inside, other=0), mask=inside)


def _new_edges(count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Make room for the ends and keys of edges."""
    sources = torch.empty(count, dtype=torch.int32, device=device)
    return sources, torch.empty_like(sources), torch.empty_like(sources, dtype=torch.int64)
