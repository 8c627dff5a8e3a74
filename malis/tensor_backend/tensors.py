"""The user's data as tensors on the device where the affinities are, checked as in `malis._checks`.

Nothing of the size of a volume leaves the device here; a check reads back its extreme values.
"""

import numpy as np
import torch
from torch import Tensor

from malis._checks import (
    Array,
    as_float32,
    as_mask,
    check_affinity_shape,
    check_labels,
    check_unit_interval,
    clear_outside,
)


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
        As `malis._checks.as_float32`.
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
        As `malis._checks.check_labels`.
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
