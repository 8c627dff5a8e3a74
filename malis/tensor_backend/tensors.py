"""What has passed the gate, as tensors on the device of the affinities."""

import numpy as np
from torch import Tensor

from malis._checks import Array, Checked, comparable, from_numpy


def as_tensors(checked: Checked) -> Checked:
    """Return a prediction and its ground truth as tensors on one device, that of the affinities.

    That is the host where the device is Apple's MPS. Labels become int64, and ids from 2^63 on
    negative numbers.
    """
    values, labels, *masks = checked
    values = as_tensor(values)
    masks = [None if mask is None else as_tensor(mask).to(values.device) for mask in masks]
    if not isinstance(labels, Tensor):
        wide = np.uint64 if labels.dtype.kind == "u" else np.int64
        labels = from_numpy(labels.astype(wide, copy=False).view(np.int64))
    return Checked(values, comparable(labels).to(values.device), *masks)


def as_tensor(array: Array) -> Tensor:
    """Return an array as a tensor on the host; a tensor stays where it is, but for Apple's MPS.

    Sums of counts need float64 and scatters of int64, which MPS lacks or nobody has tried.
    """
    if isinstance(array, Tensor):
        return array.cpu() if array.device.type == "mps" else array
    return from_numpy(array)
