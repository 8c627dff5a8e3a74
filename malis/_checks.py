"""The checks of what the user passes in, all in one place.

Shapes, dtypes and ranges, each with its message; the choice of a backend; and a decorator for what
`torch.compile` runs as it is, because trees and tables of NumPy and Higra give it nothing to trace.
"""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Offsets = Sequence[Sequence[int]] | np.ndarray | torch.Tensor

BACKENDS = ("auto", "higra", "numba", "parallel")
MOST_VOXELS, MOST_EDGES = 2**29, 2**31  # of a batch in the parallel form
PARALLEL_ON_CPU = range(2**19, 2**29)  # voxels of a sample
MANY, SMALL = 16, 2**11  # samples of a batch, and voxels of each, that go through at once


def check_offsets(offsets: Offsets) -> np.ndarray:
    """Return `offsets` as a (C, ndim) int64 array, or say what is wrong with them.

    One row a channel, the step from a voxel to the other end of its edge. A TypeError for what is
    no integer, a ValueError for another shape and for an offset that is zero.
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
    """Raise a ValueError unless the shape, ([B,] C, *spatial), fits (C, ndim) offsets."""
    n_channels, ndim = offsets.shape
    if len(shape) != ndim + 1 + batched or shape[-ndim - 1] != n_channels:
        form = f"({'B, ' * batched}{n_channels}, {', '.join('zyx'[-ndim:])})"
        raise ValueError(
            f"affinities must have shape {form} for {n_channels} offsets in {ndim}D, "
            f"got {tuple(shape)}"
        )
    if 0 in shape:
        raise ValueError(f"affinities are empty: shape {tuple(shape)}")


def check_affinities(
    affinities: Array, offsets: np.ndarray, batched: bool, from_logits: bool = False
) -> Array:
    """Check affinities and return them as float32, the same kind of array on the same device.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) float array or tensor
        Any floating dtype, device and memory layout.
    offsets : (C, ndim) int64 array
    batched : bool
        Whether the batch axis must be there.
    from_logits : bool
        Whether they are logits, which may be any finite numbers.

    Returns
    -------
    float32 array or tensor of the same shape
        Finite and without a gradient; a copy only where the dtype or a value demands one.

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
        floating, limits = affinities.is_floating_point(), torch.finfo
        values = affinities.detach().to(torch.float32)
    else:
        floating, limits = np.issubdtype(affinities.dtype, np.floating), np.finfo
        values = affinities.astype(np.float32, copy=False)
    if not floating:
        raise TypeError(f"affinities must be floating-point numbers, got {affinities.dtype}")
    if from_logits and _surely_finite(values):
        return values
    margin = math.inf if from_logits else 4 * float(limits(affinities.dtype).eps)
    low, high = _extremes(values)
    if from_logits or not (low >= -margin and high <= 1 + margin):
        values = clear_outside(values, offsets)  # there, all is allowed
        low, high = _extremes(values)
        if not (math.isfinite(low) and math.isfinite(high)):
            name = "logits" if from_logits else "affinities"
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        if not (low >= -margin and high <= 1 + margin):
            raise ValueError(
                f"affinities must lie in [0, 1], got values in [{low:g}, {high:g}]; of what a "
                "network puts out before the sigmoid, say from_logits=True"
            )
    return values


def _surely_finite(values: Array) -> bool:
    """Whether the sum of all numbers is finite, the cheapest proof that each of them is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(values.sum().item())


def _extremes(values: Array) -> tuple[float, float]:
    """Return the least and the greatest value; NaN if there is one. Both are read from a device."""
    if isinstance(values, torch.Tensor):
        low, high = values.aminmax()
        return low.item(), high.item()
    return float(values.min()), float(values.max())


def clear_outside(affinities: Array, offsets: np.ndarray, value: float = 0) -> Array:
    """Overwrite the values of edges that leave the volume, in a copy; gradients pass unchanged.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) array or tensor
    offsets : (C, ndim) int64 array
    value : float
        What to write there: a number from which no gradient comes back, because the edge has no
        weight or is predicted for sure.
    """
    values = affinities.clone() if isinstance(affinities, Tensor) else affinities.copy()
    with torch.no_grad():
        for channel, offset in enumerate(offsets.tolist()):
            for axis, step in enumerate(offset):
                if step:
                    size = values.shape[axis - len(offset)]
                    box = [slice(None)] * len(offset)
                    box[axis] = slice(-step) if step < 0 else slice(max(size - step, 0), None)
                    values[(..., channel, *box)] = value
    return values


def check_labels(labels: Array, shape: Sequence[int]) -> None:
    """Raise unless labels are integers, not negative, and of the shape that affinities demand."""
    if tuple(labels.shape) != tuple(shape):
        raise ValueError(
            f"labels must have shape {tuple(shape)} like the affinities, got {tuple(labels.shape)}"
        )
    check_integer(labels, "labels")
    dtype = str(labels.dtype).removeprefix("torch.")
    if not dtype.startswith("uint") and 0 not in labels.shape and int(labels.min()) < 0:
        raise ValueError(f"labels must not be negative, got {int(labels.min())}")


def comparable(labels: torch.Tensor) -> torch.Tensor:
    """Return labels as int64, which torch can compare and sort: uint64 by the same bits.

    They are equal where the labels are equal, and 0 where they are 0; no more is needed of them.
    """
    return labels.view(torch.int64) if labels.dtype == torch.uint64 else labels.to(torch.int64)


def check_integer(array: np.ndarray | torch.Tensor, name: str) -> None:
    """Raise a TypeError that names the array or tensor unless it holds integers, no booleans."""
    if isinstance(array, torch.Tensor):
        integer = not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
    else:
        integer = np.issubdtype(array.dtype, np.integer)
    if not integer:
        raise TypeError(f"{name} must be integers, got {array.dtype}")


class Checked(NamedTuple):
    """A prediction and its ground truth that have passed all checks.

    Attributes
    ----------
    values : ([B,] C, *spatial) float32 array or tensor
        The affinities or logits as `check_affinities` returns them.
    labels : ([B,] *spatial) integer array or tensor
    edge_mask : ([B,] C, *spatial) bool array or tensor, or None
    labelled_mask : ([B,] *spatial) bool array or tensor, or None
    """

    values: np.ndarray | torch.Tensor
    labels: np.ndarray | torch.Tensor
    edge_mask: np.ndarray | torch.Tensor | None = None
    labelled_mask: np.ndarray | torch.Tensor | None = None


def check_prediction(
    affinities: Array,
    labels: Array,
    offsets: np.ndarray,
    edge_mask: Array | None = None,
    labelled_mask: Array | None = None,
    *,
    batched: bool | None = None,
    from_logits: bool = False,
) -> Checked:
    """Check a prediction and its ground truth.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) float array or tensor
    labels : ([B,] *spatial) integer array or tensor
    offsets : (C, ndim) int64 array
    edge_mask, labelled_mask : ([B,] C, *spatial) and ([B,] *spatial) arrays or tensors, optional
        0 or False, and anything else.
    batched : bool, optional
        Whether the batch axis must be there; by default it may.
    from_logits : bool
        See `check_affinities`.

    Raises
    ------
    ValueError, TypeError
        As `check_affinities` and `check_labels`, and if a mask has another shape.
    """
    ndim = offsets.shape[1]
    if batched is None:
        batched = affinities.ndim == ndim + 2
    values = check_affinities(affinities, offsets, batched, from_logits)
    shape = tuple(values.shape)
    check_labels(labels, (*shape[:batched], *shape[-ndim:]))
    return Checked(
        values,
        labels,
        check_mask(edge_mask, shape, "edge_mask"),
        check_mask(labelled_mask, labels.shape, "labelled_mask"),
    )


def check_mask(mask: Array | None, shape: Sequence[int], name: str) -> Array | None:
    """Check the shape of a mask and return it as booleans (not 0); None stays None."""
    if mask is None:
        return None
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mask.shape)}")
    return mask.bool() if isinstance(mask, torch.Tensor) else mask.astype(bool, copy=False)


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor: a copy where the array is read-only or reversed."""
    array = np.require(array, requirements=("C", "W"))
    if min(array.strides, default=0) < 0:  # along an axis of length 1, NumPy does not mind
        array = array.copy()
    return torch.from_numpy(array)


def as_numpy(array: Array) -> np.ndarray:
    """Return an array, or a tensor of any device, as an array on the host; copied if need be."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def like(array: np.ndarray | torch.Tensor, model: Array) -> Array:
    """Return an array or tensor as the kind of `model`, on its device; copied only if needed."""
    if not isinstance(model, torch.Tensor):
        return as_numpy(array)
    tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
    return tensor.to(model.device)


def exceeds_parallel(shape: Sequence[int], ndim: int) -> bool:
    """Whether a batch is too large for the parallel form, which packs numbers into 64 bits.

    `shape` is that of the affinities, ([B,] C, *spatial), with `ndim` spatial axes.
    """
    voxels = math.prod(shape[-ndim:]) * math.prod(shape[: -ndim - 1])
    return voxels >= MOST_VOXELS or math.prod(shape) >= MOST_EDGES


def extra_package(name: str, extra: str) -> ModuleType:
    """Import a package that only an extra of the installation brings, where it is needed.

    Parameters
    ----------
    name : str
        Of the module, for instance "zarr" or "dask.utils".
    extra : str
        Of pyproject.toml, for instance "scale".

    Returns
    -------
    module

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed; the message says which extra brings it.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"this needs {package}, which the extra [{extra}] brings: "
            f'pip install ".[{extra}]" in a clone of the repository',
            name=package,
        ) from error
    return importlib.import_module(name)


@functools.cache
def has_numba() -> bool:
    """Whether Numba is installed and fits the other packages."""
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True


def choose_backend(
    backend: str, affinities: Array, offsets: np.ndarray, *, general: bool = False
) -> str:
    """Resolve a backend: "auto" becomes the fastest one for these affinities.

    On a CUDA device that is "parallel", on a CPU "numba". Without Numba, the parallel form takes
    0.5 to 0.8 of Higra's time on one thread of a CPU for samples of 2^19 voxels and more (and a
    third more memory); they are even at 64^3, and below that Higra is faster, except for many small
    samples (windows of a patch), which the parallel form takes as one graph: 64 of 32x32 in half of
    Higra's time. For masks and the unconstrained form, Higra stays the choice on a CPU, because the
    parallel form would take more than 100 bytes an edge.
    ``benchmarks/loss.py`` measures it.

    Parameters
    ----------
    backend : {"auto", "higra", "numba", "parallel"}
    affinities : ([B,] C, *spatial) array or tensor
    offsets : (C, ndim) int64 array
    general : bool
        Whether masks or the unconstrained form are asked for.

    Raises
    ------
    ValueError
        If the backend is none of the four, or "numba" and a sample is too large for it.
    ModuleNotFoundError
        If it is "numba" and Numba is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f'backend must be "auto", "higra", "numba" or "parallel", got "{backend}"')
    ndim = offsets.shape[1]
    voxels, samples = math.prod(affinities.shape[-ndim:]), math.prod(affinities.shape[: -ndim - 1])
    fits_numba = voxels < 2**31 and voxels * len(offsets) < 2**32
    if backend == "numba":
        extra_package("numba", "fast")
        if not fits_numba:
            raise ValueError(
                'backend "numba" takes samples of fewer than 2^31 voxels and 2^32 edges, got '
                f"{voxels} voxels with {len(offsets)} edges each"
            )
    if backend != "auto":
        return backend
    fits_parallel = not exceeds_parallel(affinities.shape, ndim)
    if isinstance(affinities, torch.Tensor) and affinities.is_cuda and fits_parallel:
        return "parallel"
    if fits_numba and has_numba():
        return "numba"
    suits = voxels in PARALLEL_ON_CPU or (samples >= MANY and voxels <= SMALL)
    return "parallel" if suits and fits_parallel and not general else "higra"


def uncompiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let `torch.compile` call a function without looking into it.

    This is `torch.compiler.disable` without the second that it takes to import the compiler, which
    is only imported where something is compiled.
    """

    @functools.wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called
