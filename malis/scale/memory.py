"""How much memory a worker needs, told before it starts.

The numbers are upper bounds in bytes for float32 on the CPU, measured with NumPy 2.4 and PyTorch
2.13: a worker holds its packages, and one block at a time in the most expensive of its steps.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from malis.inference.own_unet import FullyConvolutional, per_axis
from malis.inference.tiles import DEFAULT_TILE, plan_tiles
from malis.scale.stages import halo_of_network

PACKAGES = 400 * 2**20  # the interpreter with torch, Higra, Zarr and Dask
PER_CHANNEL = 12  # bytes a voxel: affinities as read, as a copy, and as decompressed chunks
PER_VOXEL = 80  # bytes a voxel of the fragments' and the boundaries' intermediate arrays


def memory_to_predict(
    net: FullyConvolutional,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    tile: int | Sequence[int] | None,
) -> int:
    """Bound the memory in which a worker predicts a block of a volume, by tiles."""
    outer = _grown(shape, block, halo_of_network(net))
    largest = per_axis(DEFAULT_TILE[net.ndim] if tile is None else tile, net.ndim, "tile")
    input_size, _ = plan_tiles(net.geometry, outer[-net.ndim :], largest)
    per_voxel = 4 + PER_CHANNEL * net.out_channels  # raw data and affinities
    return PACKAGES + per_voxel * math.prod(outer) + forward_memory(net, input_size)


def memory_to_segment(
    shape: tuple[int, ...], block: tuple[int, ...], halo: tuple[int, ...], n_channels: int
) -> int:
    """Bound the memory in which a worker segments a block of affinities with its halo."""
    per_voxel = PER_VOXEL + PER_CHANNEL * n_channels
    return PACKAGES + per_voxel * math.prod(_grown(shape, block, halo))


def forward_memory(net: nn.Module, input_size: tuple[int, ...]) -> int:
    """Sum up the outputs of all layers for one input, as if none was freed, uncomputed."""
    sizes = []

    def note(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not any(module.children()):
            sizes.append(output.numel() * output.element_size())

    shapes_only = copy.deepcopy(net).to("meta").eval()
    for module in shapes_only.modules():
        module.register_forward_hook(note)
    with torch.inference_mode():
        shapes_only(torch.empty(1, net.in_channels, *input_size, device="meta"))
    return sum(sizes)


def _grown(
    shape: tuple[int, ...], block: tuple[int, ...], halo: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(min(n, b + 2 * h) for n, b, h in zip(shape, block, halo, strict=True))
