"""What has passed the gate, as tensors on the device of the affinities."""

import numpy as np
import torch
from torch import Tensor

from malis._checks import Array, Checked, from_numpy


def as_tensors(checked: Checked) -> Checked:
    """Return a prediction and its ground truth as tensors on one device, that of the affinities.

    Parameters
    ----------
    checked : Checked

    Returns
    -------
    Checked
        With int64 labels, see `label_tensor`.
    """
    values, labels, *masks = checked
    values = as_tensor(values)
    masks = [None if mask is None else as_tensor(mask).to(values.device) for mask in masks]
    return Checked(values, label_tensor(labels).to(values.device), *masks)


def as_tensor(array: Array) -> Tensor:
    """Return an array as a tensor on the host; a tensor stays what and where it is."""
    return array if isinstance(array, Tensor) else from_numpy(array)


def label_tensor(labels: Array) -> Tensor:
    """Return labels as an int64 tensor; ids from 2^63 on become negative numbers.

    Parameters
    ----------
    labels : integer array or tensor

    Returns
    -------
    int64 tensor
        Equal where the labels are equal, and 0 where they are 0; no more is needed of them.
    """
    if isinstance(labels, Tensor):
        unsigned = labels.dtype == torch.uint64  # torch compares none, but the same bits do
        return labels.view(torch.int64) if unsigned else labels.to(torch.int64)
    wide = np.uint64 if labels.dtype.kind == "u" else np.int64
    return from_numpy(labels.astype(wide, copy=False).view(np.int64))
