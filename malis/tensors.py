"""The user's data as tensors on the device where the affinities are, checked as in `malis.checks`.

Nothing of the size of a volume leaves the device here; a check reads back its extreme values.
"""

import importlib.util
import logging
import math
import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from malis.checks import (
    Array,
    as_float32,
    as_mask,
    check_affinity_shape,
    check_labels,
    check_unit_interval,
    clear_outside,
)

BACKENDS = ("auto", "higra", "parallel")
MOST_VOXELS, MOST_EDGES = 2**29, 2**31  # of a batch in the parallel form
PARALLEL_ON_CPU = range(2**19, 2**29)  # voxels of a sample
MANY, SMALL = 16, 2**11  # samples of a batch, and voxels of each, that go through at once


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
    on_cuda = isinstance(affinities, Tensor) and affinities.is_cuda
    ndim = offsets.shape[1]
    voxels, samples = math.prod(affinities.shape[-ndim:]), math.prod(affinities.shape[: -ndim - 1])
    suits = voxels in PARALLEL_ON_CPU or (samples >= MANY and voxels <= SMALL)
    return "parallel" if on_cuda or (suits and not general) else "higra"


def triton_kernels(device: torch.device) -> ModuleType | None:
    """Say whether Triton kernels do the work on a device: `malis.kernels`, or None.

    They do on CUDA devices if the environment variable ``MALIS_TRITON`` is 1 and Triton is
    installed, and on the CPU only in Triton's interpreter (``TRITON_INTERPRET=1``), for tests.
    Otherwise PyTorch's operations do, with the same results. No GPU has run the kernels so far,
    which is why they have to be asked for; ``python -m benchmarks.loss --device cuda`` compares
    both.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    module or None
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    suits = device.type == ("cpu" if interpreted else "cuda")
    if not suits or os.environ.get("MALIS_TRITON") != "1" or not _triton_is_installed():
        return None
    from malis import kernels

    return kernels


@cache
def _triton_is_installed() -> bool:
    """Look for Triton, and warn once where it has been asked for and is missing."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        logging.getLogger(__name__).warning("MALIS_TRITON=1, but Triton is not installed")
    return found


def affinity_tensor(affinities: Array, offsets: np.ndarray, batched: bool = False) -> Tensor:
    """Check affinities and return them as a float32 tensor on their device, never below 0.

    Parameters
    ----------
    affinities : ([B,] C, *spatial) float array or tensor
    offsets : (C, ndim) int64 array
    batched : bool
        Whether the batch axis must be there.

    Returns
    -------
    float32 tensor of the same shape

    Raises
    ------
    ValueError, TypeError
        As `malis.checks.as_float32`.
    """
    if not isinstance(affinities, Tensor):
        return _from_numpy(as_float32(affinities, offsets, batched))
    check_affinity_shape(affinities.shape, offsets, batched)
    if not affinities.is_floating_point():
        raise TypeError(f"affinities must be floating-point numbers, got {affinities.dtype}")
    values = affinities.detach().to(torch.float32)
    low, high = torch.stack(values.aminmax()).tolist()
    if not (low >= 0 and high <= 1):  # as in `as_float32`
        values = clear_outside(values, offsets)
        low, high = torch.stack(values.aminmax()).tolist()
    check_unit_interval(low, high, torch.finfo(affinities.dtype).eps)
    # Adding 0 turns -0.0, whose bits would sort last, into 0.0.
    return values.clamp(min=0) + 0 if low <= 0 else values


def label_tensor(labels: Array, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Check labels and return them as an int64 tensor; ids from 2^63 on become negative numbers.

    Parameters
    ----------
    labels : integer array or tensor
    shape : tuple of int
        The shape they must have.
    device : torch.device

    Returns
    -------
    int64 tensor
        Equal where the labels are equal, and 0 where they are 0; no more is needed of them.

    Raises
    ------
    ValueError, TypeError
        As `malis.checks.check_labels`.
    """
    check_labels(labels, shape)
    if isinstance(labels, Tensor):
        unsigned = labels.dtype == torch.uint64  # torch compares none, but the same bits do
        labels = labels.view(torch.int64) if unsigned else labels.to(torch.int64)
    else:
        wide = np.uint64 if labels.dtype.kind == "u" else np.int64
        labels = _from_numpy(labels.astype(wide, copy=False).view(np.int64))
    return labels.to(device)


def mask_tensor(
    mask: Array | None, shape: tuple[int, ...], name: str, device: torch.device
) -> Tensor | None:
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
    if isinstance(mask, Tensor) and tuple(mask.shape) == tuple(shape):
        return mask.to(device, torch.bool)
    return None if mask is None else _from_numpy(as_mask(mask, shape, name)).to(device)


def _from_numpy(array: np.ndarray) -> Tensor:
    """Share the memory of an array where torch can; copy it where it is read-only or reversed."""
    array = np.require(array, requirements=("C", "W"))
    if min(array.strides, default=0) < 0:  # along an axis of length 1, NumPy does not mind
        array = array.copy()
    return torch.from_numpy(array)
