"""The user's data as tensors on the device where the affinities are, checked as in `malis._checks`.

Nothing of the size of a volume leaves the device here; a check reads back its extreme values.
"""

import numpy as np
import torch
from torch import Tensor

from malis._checks import (
    Array,
    as_float32,
    check_affinity_shape,
    check_labels,
    check_unit_interval,
    clear_outside,
    from_numpy,
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
        return from_numpy(as_float32(affinities, offsets, batched))
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
        labels = from_numpy(labels.astype(wide, copy=False).view(np.int64))
    return labels.to(device)
