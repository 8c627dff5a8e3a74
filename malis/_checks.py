"""The one gate: where the user's data comes in.

Shapes, dtypes and ranges, each with its message; the choice of a backend; and what `torch.compile`
runs as it is, because trees and tables of NumPy and Higra are nothing to trace.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Offsets = Sequence[Sequence[int]] | np.ndarray | torch.Tensor

BACKENDS = ("auto", "higra", "parallel")
MOST_VOXELS, MOST_EDGES = 2**29, 2**31  # of a batch in the parallel form
PARALLEL_ON_CPU = range(2**19, 2**29)  # voxels of a sample
MANY, SMALL = 16, 2**11  # samples of a batch, and voxels of each, that go through at once


def check_offsets(offsets: Offsets) -> np.ndarray:
    """Return `offsets` as a (C, ndim) int64 array, or say what is wrong with them.

    Parameters
    ----------
    offsets : (C, ndim) integers
        Step from a voxel to the other end of its edge, one row a channel.

    Returns
    -------
    (C, ndim) int64 array

    Raises
    ------
    ValueError
        If the shape is not (C, ndim) with both at least 1, or an offset is zero.
    TypeError
        If the offsets are not integers.
    """
    array = np.asarray(offsets)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"offsets must have shape (C, ndim), got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"offsets must be integers, got {array.dtype}")
    zero = np.flatnonzero(~array.any(axis=1))
    if zero.size:
        raise ValueError(f"offset {zero[0]} is zero: it would join a voxel to itself")
    return array.astype(np.int64)


def check_affinity_shape(shape: Sequence[int], offsets: np.ndarray, batched: bool) -> None:
    """Raise a ValueError unless a shape is that of affinities with these offsets.

    Parameters
    ----------
    shape : sequence of int
    offsets : (C, ndim) int64 array
    batched : bool
        Whether a batch axis must come first.

    Raises
    ------
    ValueError
        If the number of axes or channels is another one, or an axis is empty.
    """
    n_channels, ndim = offsets.shape
    if len(shape) != ndim + 1 + batched or shape[-ndim - 1] != n_channels:
        form = f"({'B, ' * batched}{n_channels}, {', '.join('zyx'[-ndim:])})"
        raise ValueError(
            f"affinities must have shape {form} for {n_channels} offsets in {ndim}D, "
            f"got {tuple(shape)}"
        )
    if 0 in shape:
        raise ValueError(f"affinities are empty: shape {tuple(shape)}")


def as_float32(affinities: Array, offsets: np.ndarray, batched: bool = False) -> np.ndarray:
    """Check affinities and return them as a float32 array on the host, never below 0.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) float array or tensor
        Any floating dtype, device and memory layout.
    offsets : (C, ndim) int64 array
    batched : bool
        Whether the batch axis must be there.

    Returns
    -------
    float32 array of the same shape
        A copy only where the dtype, the device or a value below 0 demands one.

    Raises
    ------
    ValueError
        If the shape does not fit the offsets, an axis is empty, or the affinity of an edge within
        the volume is not finite or outside [0, 1] by more than rounding.
    TypeError
        If the affinities are not floating-point numbers.
    """
    check_affinity_shape(affinities.shape, offsets, batched)
    if isinstance(affinities, torch.Tensor):
        if not affinities.is_floating_point():
            raise TypeError(f"affinities must be floating-point numbers, got {affinities.dtype}")
        epsilon = torch.finfo(affinities.dtype).eps
        values = affinities.detach().to("cpu", torch.float32).numpy()
    else:
        if not np.issubdtype(affinities.dtype, np.floating):
            raise TypeError(f"affinities must be floating-point numbers, got {affinities.dtype}")
        epsilon = float(np.finfo(affinities.dtype).eps)
        values = affinities.astype(np.float32, copy=False)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # perhaps on edges that leave the volume, where all is allowed
        values = clear_outside(values, offsets)
        low, high = float(values.min()), float(values.max())
    check_unit_interval(low, high, epsilon)
    # Adding 0 turns -0.0, whose bits would sort last, into 0.0.
    return np.maximum(values, np.float32(0)) + np.float32(0) if low <= 0 else values


def clear_outside(affinities: Array, offsets: np.ndarray) -> Array:
    """Set to 0 what stands on edges that leave the volume; gradients there become exactly 0.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) array or tensor
    offsets : (C, ndim) int64 array

    Returns
    -------
    array or tensor
        A copy.
    """
    tensor = isinstance(affinities, torch.Tensor)
    values = affinities.clone() if tensor else affinities.copy()
    for channel, offset in enumerate(offsets.tolist()):
        for axis, step in enumerate(offset):
            if step:
                size = values.shape[axis - len(offset)]
                outside = slice(-step) if step < 0 else slice(max(size - step, 0), None)
                box = [slice(None)] * len(offset)
                box[axis] = outside
                values[(..., channel, *box)] = 0
    return values


def check_unit_interval(low: float, high: float, epsilon: float) -> None:
    """Raise a ValueError if affinities are not finite, or outside [0, 1] by more than rounding.

    Parameters
    ----------
    low, high : float
        The least and the greatest affinity.
    epsilon : float
        Machine epsilon of their dtype.

    Raises
    ------
    ValueError
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("affinities must be finite, got NaN or infinity")
    if low < -4 * epsilon or high > 1 + 4 * epsilon:
        raise ValueError(f"affinities must lie in [0, 1], got values in [{low:g}, {high:g}]")


def check_labels(labels: Array, shape: Sequence[int]) -> None:
    """Raise unless `labels` are integers, not negative, and of the shape of the affinities.

    Parameters
    ----------
    labels : array or tensor
    shape : sequence of int
        What the affinities demand: ([B,] *spatial).

    Raises
    ------
    ValueError
        If the shape is another one or a label is negative.
    TypeError
        If the labels are not integers.
    """
    if tuple(labels.shape) != tuple(shape):
        raise ValueError(
            f"labels must have shape {tuple(shape)} like the affinities, got {tuple(labels.shape)}"
        )
    check_integer(labels, "labels")
    dtype = str(labels.dtype).removeprefix("torch.")
    if not dtype.startswith("uint") and 0 not in labels.shape and int(labels.min()) < 0:
        raise ValueError(f"labels must not be negative, got {int(labels.min())}")


def check_batch(affinities: Array, labels: Array, offsets: np.ndarray) -> None:
    """Raise unless affinities and labels are batches of one shape.

    Parameters
    ----------
    affinities : (B, C, *spatial) array or tensor
    labels : (B, *spatial) integer array or tensor
    offsets : (C, ndim) int64 array

    Raises
    ------
    ValueError
        If the shapes disagree or a label is negative.
    TypeError
        If the labels are not integers.
    """
    check_affinity_shape(affinities.shape, offsets, batched=True)
    check_labels(labels, (len(affinities), *affinities.shape[2:]))


def check_integer(array: np.ndarray | torch.Tensor, name: str) -> None:
    """Raise a TypeError unless `array` holds integers.

    Parameters
    ----------
    array : array or tensor
    name : str
        What the message calls it.

    Raises
    ------
    TypeError
        If the dtype is floating, complex or boolean.
    """
    if isinstance(array, torch.Tensor):
        integer = not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
    else:
        integer = np.issubdtype(array.dtype, np.integer)
    if not integer:
        raise TypeError(f"{name} must be integers, got {array.dtype}")


def check_array(array: np.ndarray, name: str) -> None:
    """Raise a TypeError unless `array` is a NumPy array.

    Parameters
    ----------
    array : array
    name : str
        What the message calls it.

    Raises
    ------
    TypeError
        If it is something else, a tensor for instance.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(array).__name__}")


def check_mask(mask: Array, shape: Sequence[int], name: str) -> None:
    """Raise a ValueError unless a mask has a shape.

    Parameters
    ----------
    mask : array or tensor
    shape : sequence of int
        The shape it must have.
    name : str
        What the message calls it.

    Raises
    ------
    ValueError
    """
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mask.shape)}")


def given_masks(
    edge_mask: torch.Tensor | None, labelled_mask: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return those masks that there are as keywords, for a loss that may take none.

    Parameters
    ----------
    edge_mask, labelled_mask : tensors, optional
        See `malis.pair_counts`.

    Returns
    -------
    dict
    """
    masks = {"edge_mask": edge_mask, "labelled_mask": labelled_mask}
    return {name: mask for name, mask in masks.items() if mask is not None}


def as_mask(mask: Array, shape: Sequence[int], name: str) -> np.ndarray:
    """Check the shape of a mask and return it as a bool array on the host.

    Parameters
    ----------
    mask : array or tensor
        0 or False, and anything else.
    shape : sequence of int
        The shape it must have.
    name : str
        What the message calls it.

    Returns
    -------
    bool array

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    check_mask(mask, shape, name)
    if isinstance(mask, torch.Tensor):
        mask = mask.to(torch.bool)  # NumPy does not know all of torch's types
    return as_numpy(mask).astype(bool, copy=False)


def mask_tensor(
    mask: Array | None, shape: tuple[int, ...], name: str, device: torch.device
) -> torch.Tensor | None:
    """Check a mask and return it as a bool tensor; None stays None.

    Parameters
    ----------
    mask : array or tensor, optional
        0 or False, and anything else.
    shape : tuple of int
        The shape it must have.
    name : str
        What the message calls it.
    device : torch.device

    Returns
    -------
    bool tensor or None

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    if isinstance(mask, torch.Tensor) and tuple(mask.shape) == tuple(shape):
        return mask.to(device, torch.bool)
    return None if mask is None else from_numpy(as_mask(mask, shape, name)).to(device)


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor: a copy where the array is read-only or reversed.

    Parameters
    ----------
    array : array

    Returns
    -------
    tensor
        Shares the memory of `array` where torch can.
    """
    array = np.require(array, requirements=("C", "W"))
    if min(array.strides, default=0) < 0:  # along an axis of length 1, NumPy does not mind
        array = array.copy()
    return torch.from_numpy(array)


def as_numpy(array: Array) -> np.ndarray:
    """Return an array, or a tensor of any device, as an array on the host.

    Parameters
    ----------
    array : array or tensor

    Returns
    -------
    array
        Shares the memory of `array` where it can.
    """
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def exceeds_parallel(shape: Sequence[int], ndim: int) -> bool:
    """Whether a batch is too large for the parallel form, which packs numbers into 64 bits.

    Parameters
    ----------
    shape : sequence of int
        Of the affinities, ([B,] C, *spatial).
    ndim : int
        Number of spatial axes.

    Returns
    -------
    bool
    """
    voxels = math.prod(shape[-ndim:]) * math.prod(shape[: -ndim - 1])
    return voxels >= MOST_VOXELS or math.prod(shape) >= MOST_EDGES


def choose_backend(
    backend: str, affinities: Array, offsets: np.ndarray, *, general: bool = False
) -> str:
    """Say which backend "auto" is: the faster one for these affinities.

    On a CUDA device that is "parallel". On one thread of a CPU, the parallel form takes 0.5 to 0.8
    of Higra's time for samples of 2^19 voxels and more (and a third more memory); they are even at
    64^3, and below Higra is faster, except for many small samples (windows of a patch), which the
    parallel form takes as one graph: 64 of 32x32 in half of Higra's time. For masks and the
    unconstrained form, Higra stays the choice on a CPU, because the parallel form would take more
    than 100 bytes an edge.
    ``benchmarks/parallel_loss.py`` measures it.

    Parameters
    ----------
    backend : {"auto", "higra", "parallel"}
    affinities : ([B,] C, *spatial) array or tensor
    offsets : (C, ndim) int64 array
    general : bool
        Whether masks or the unconstrained form are asked for.

    Returns
    -------
    {"higra", "parallel"}

    Raises
    ------
    ValueError
        If the backend is none of the three.
    """
    if backend not in BACKENDS:
        raise ValueError(f'backend must be "auto", "higra" or "parallel", got "{backend}"')
    if backend != "auto":
        return backend
    if exceeds_parallel(affinities.shape, offsets.shape[1]):
        return "higra"
    on_cuda = isinstance(affinities, torch.Tensor) and affinities.is_cuda
    ndim = offsets.shape[1]
    voxels, samples = math.prod(affinities.shape[-ndim:]), math.prod(affinities.shape[: -ndim - 1])
    suits = voxels in PARALLEL_ON_CPU or (samples >= MANY and voxels <= SMALL)
    return "parallel" if on_cuda or (suits and not general) else "higra"


def uncompiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let `torch.compile` call a function without looking into it.

    This is `torch.compiler.disable` without the second that it takes to import the compiler, which
    is only imported where something is compiled.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
        Does the same.
    """

    @functools.wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called
