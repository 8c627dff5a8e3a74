"""Affinities of whole sections and volumes, computed tile by tile.

A volume rarely fits through a network in one piece, and cut into tiles carelessly it shows seams:
near the edge of a tile, padding puts zeros and interpolation repeats voxels, and max-pooling groups
other voxels when a tile starts elsewhere. Three rules remove the seams. Tiles start on multiples of
the network's stride; they overlap; and of each only those voxels are kept that do not feel its
edge. Then tiles give what one piece gives, but for the rounding of sums in another order.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from malis.inference.grey_values import choose_range, normalise, sample_voxels
from malis.inference.own_unet import FullyConvolutional, Geometry, Size, per_axis

DEFAULT_TILE = {2: 768, 3: 160}


class Span(NamedTuple):
    """One tile along one axis, in voxels of the volume."""

    start: int  # first voxel of the network's output
    first: int  # range of the voxels that are kept of it
    stop: int


def predict(
    net: FullyConvolutional,
    volume: Any,
    *,
    tile: Size | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    mixed_precision: bool = False,
    activation: Callable[[Tensor], Tensor] | None = torch.sigmoid,
    out: Any = None,
    progress: bool = True,
) -> Any:
    """Predict the affinities of a section, a stack of sections or a volume.

    Parameters
    ----------
    net : FullyConvolutional
        `unet.UNet` or `unet.plain.PlainCNN`, also what `torch.compile` made of one. It
        predicts in evaluation mode; afterwards it is where and in the mode it was.
    volume : (z, y, x) or, for a 2D network, (y, x) array of unsigned integers or floats
        Array, HDF5 dataset or memory map; `normalise` is applied to every tile. A 2D network takes
        the sections one by one. Several input channels form the first axis; for neighbouring
        sections as channels, see `malis.inference.neighbours`.
    tile : int or (ndim,) sequence of int, optional
        Largest input of the network, rounded down to a size that divides; by default 768 in 2D and
        160 in 3D. The larger the tile, the less is computed twice.
    batch_size : int
        Tiles per forward pass.
    device : torch.device or str, optional
        Where to compute; by default where the network is.
    mixed_precision : bool
        Compute in half precision where that is safe; on CUDA only, elsewhere without effect.
    activation : callable, optional
        Turns logits into affinities; None returns the logits.
    out : array, optional
        Where to write instead of a new array, for instance an HDF5 or Zarr dataset of the result's
        shape and of floats, so that neither volume nor result has to fit into memory.
    progress : bool
        Show a progress bar.

    Returns
    -------
    (C, *spatial) float32 array, or ``out``
        Affinities of all voxels: (C, y, x) for a single section, otherwise (C, z, y, x).

    Raises
    ------
    TypeError
        If the network is none of ours, `normalise` does not take the volume's type, or ``out`` is
        a tensor or does not hold floats.
    ValueError
        If axes or channels do not fit the network, the tile is too small, ``out`` has another
        shape, the input or the prediction is not finite, or grey values of another type than uint8
        do not use its range, see `malis.inference.grey_values.to_bytes`.

    Notes
    -----
    Where the network reads beyond the volume, the volume is continued by its mirror image: by
    `Geometry.crop` voxels on each side for valid convolutions, and at the end by what lacks to a
    size that divides. A network with padding sees its zeros there, as in training. Either
    way, values within `Geometry.context` of the border rest on tissue that nobody has seen.

    One piece and tiles agree to about 1e-6 in single precision; on a GPU only to about 1e-3 where
    TF32 (`torch.backends.cudnn.allow_tf32`) or mixed precision shortens the factors.
    """
    forward, net = net, getattr(net, "_orig_mod", net)  # of a compiled network
    if not isinstance(net, FullyConvolutional):
        raise TypeError(f"net must be a UNet or a PlainCNN, got {type(net).__name__}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(volume, Tensor):
        volume = volume.numpy(force=True)
    spatial = _spatial_shape(net, tuple(volume.shape))
    shape = (net.out_channels, *spatial)
    if out is not None:
        _check_out(out, shape)
    dtype = np.dtype(getattr(volume, "dtype", np.uint8))
    if dtype.kind == "u" and dtype.itemsize > 1:
        choose_range(sample_voxels(volume), name="volume")  # refuses what looks black to a network

    largest = per_axis(DEFAULT_TILE[net.ndim] if tile is None else tile, net.ndim, "tile")
    input_size, spans = plan_tiles(net.geometry, spatial[-net.ndim :], largest)
    sections = [(z,) for z in range(spatial[0])] if len(spatial) > net.ndim else [()]
    jobs = list(itertools.product(sections, itertools.product(*spans)))

    if out is None:
        out = np.empty(shape, np.float32)
    with (
        _evaluating(net, device) as place,
        torch.inference_mode(),
        torch.autocast("cuda", enabled=mixed_precision and place.type == "cuda"),
        tqdm(total=len(jobs), desc="predict", unit="tile", disable=not progress) as bar,
    ):
        for done in range(0, len(jobs), batch_size):
            batch = jobs[done : done + batch_size]
            blocks = [_read(net, volume, *job, input_size) for job in batch]
            logits = forward(torch.from_numpy(np.stack(blocks)).to(place)).float()
            values = logits if activation is None else activation(logits)
            for job, value in zip(batch, values.cpu().numpy(), strict=True):
                _write(out, value, *job)
            bar.update(len(batch))
    return out


def plan_tiles(
    geometry: Geometry, length: tuple[int, ...], largest: tuple[int, ...]
) -> tuple[tuple[int, ...], list[list[Span]]]:
    """Cut a volume into equal, aligned, overlapping tiles.

    Parameters
    ----------
    geometry : Geometry
        Sizes of the network.
    length : (ndim,) tuple of int
        Size of the volume.
    largest : (ndim,) tuple of int
        Largest input of the network.

    Returns
    -------
    input_size : (ndim,) tuple of int
        Input of the network, for every tile.
    spans : list of lists of Span
        For every axis, the tiles along it; the kept ranges follow each other without gap or
        overlap from 0 to the axis' length. The tiles are the product of the axes.

    Raises
    ------
    ValueError
        If an axis does not fit into one tile and nothing would be kept of several.
    """
    whole = geometry.input_size_for(length)
    least = geometry.ceil(
        tuple(2 * c + s for c, s in zip(geometry.context, geometry.stride, strict=True))
    )
    needed = tuple(min(w, n) for w, n in zip(whole, least, strict=True))
    if any(tile < n for tile, n in zip(largest, needed, strict=True)):
        raise ValueError(
            f"tile {largest} is smaller than the field of view of the network: a volume of size "
            f"{length} needs tiles of at least {needed}"
        )
    input_size = geometry.floor(tuple(min(t, w) for t, w in zip(largest, whole, strict=True)))
    axes = zip(
        length, whole, input_size, geometry.stride, geometry.crop, geometry.context, strict=True
    )
    return input_size, [_plan_axis(*axis) for axis in axes]


def _plan_axis(
    length: int, whole: int, size: int, stride: int, crop: int, context: int
) -> list[Span]:
    """Place tiles of input ``size`` along an axis whose one piece would have input ``whole``."""
    spans = []
    start = stop = 0
    while stop < length:
        at_end = start + size == whole
        first, stop = stop, length if at_end else min(length, start + size - crop - context)
        spans.append(Span(start, first, stop))
        step = (size - 2 * context) // stride * stride
        start = min(start + step, whole - size)
    return spans


def _spatial_shape(net: FullyConvolutional, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the volume's axes without its channels, after checking both."""
    spatial = shape
    if net.in_channels > 1:
        if shape[:1] != (net.in_channels,):
            raise ValueError(
                f"volume must have the network's {net.in_channels} channels as first axis, "
                f"got shape {shape}"
            )
        spatial = shape[1:]
    allowed = ("(z, y, x)",) if net.ndim == 3 else ("(y, x)", "(z, y, x)")
    if len(spatial) not in (net.ndim, 3) or 0 in spatial:
        raise ValueError(
            f"volume must have the axes {' or '.join(allowed)}, none empty, for this {net.ndim}D "
            f"network with {net.in_channels} input channel(s), got shape {shape}"
        )
    return spatial


def _check_out(out: Any, shape: tuple[int, ...]) -> None:
    """Raise unless a prediction of this shape can be written to `out`."""
    if isinstance(out, Tensor):
        raise TypeError("out must be a NumPy array or an HDF5 or Zarr dataset, got a Tensor")
    if not np.issubdtype(out.dtype, np.floating):
        raise TypeError(f"out must hold floating-point numbers, got {out.dtype}")
    if tuple(out.shape) != shape:
        raise ValueError(f"out must have shape {shape} for this volume, got {tuple(out.shape)}")


def _read(
    net: FullyConvolutional,
    volume: Any,
    section: tuple[int, ...],
    spans: tuple[Span, ...],
    input_size: tuple[int, ...],
) -> np.ndarray:
    """Return the normalised (in_channels, *input_size) input of a tile, mirrored at the borders."""
    voxels = []
    for axis, (span, size) in enumerate(zip(spans, input_size, strict=True)):
        start = span.start - net.geometry.crop[axis]
        voxels.append(mirror(np.arange(start, start + size), volume.shape[axis - net.ndim]))
    box = tuple(slice(v.min(), v.max() + 1) for v in voxels)
    channels = (slice(None),) if net.in_channels > 1 else ()
    block = normalise(volume[channels + section + box])
    for axis, v in enumerate(voxels):
        block = block.take(v - v.min(), axis=axis - net.ndim)
    block = block if channels else block[None]
    if not np.isfinite(block).all():
        channel, *place = np.argwhere(~np.isfinite(block))[0]
        voxel = [*section, *(int(v[i]) for v, i in zip(voxels, place, strict=True))]
        raise ValueError(f"volume holds {block[channel, *place]} at voxel {voxel}")
    return block


def mirror(voxel: np.ndarray, length: int) -> np.ndarray:
    """Reflect indices beyond either end of an axis back into it, without repeating the end."""
    if length == 1:
        return np.zeros_like(voxel)
    period = 2 * (length - 1)
    voxel = voxel % period
    return np.minimum(voxel, period - voxel)


def _write(out: Any, value: np.ndarray, section: tuple[int, ...], spans: tuple[Span, ...]) -> None:
    """Put the kept centre of a tile's (C, *output_size) prediction in its place."""
    kept = tuple(slice(span.first - span.start, span.stop - span.start) for span in spans)
    centre = value[(slice(None), *kept)]
    if not np.isfinite(centre).all():
        raise ValueError(
            f"the prediction is NaN or infinite in {_name(section, spans)} although the input is "
            "finite: look at the network's weights, or predict without mixed precision"
        )
    out[(slice(None), *section, *(slice(span.first, span.stop) for span in spans))] = centre


def _name(section: tuple[int, ...], spans: tuple[Span, ...]) -> str:
    """Name a tile in an error message by the voxels that are kept of it."""
    axes = [str(z) for z in section] + [f"{span.first}:{span.stop}" for span in spans]
    return f"the tile [{', '.join(axes)}]"


@contextmanager
def _evaluating(net: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Put the network in evaluation mode and on the device, and both back afterwards."""
    home = next(net.parameters()).device
    place = home if device is None else torch.device(device)
    training = {module: module.training for module in net.modules()}
    try:
        net.eval().to(place)
        yield place
    finally:
        net.to(home)
        for module, mode in training.items():
            module.training = mode
