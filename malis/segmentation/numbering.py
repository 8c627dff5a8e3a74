"""Label volumes: numbering them, answering in the caller's kind, removing small objects."""

import numpy as np
import torch

from malis._checks import Array, as_numpy, check_integer


def compact(labels: Array, name: str = "labels") -> tuple[np.ndarray, np.ndarray]:
    """Replace the labels by 1, 2, ... in ascending order; 0 stays 0.

    Parameters
    ----------
    labels : (*spatial) integer array or tensor
        Any integer type; 0 = no object.
    name : str
        What an error message calls them.

    Returns
    -------
    numbers : (*spatial) int32 array
    ids : (N,) array
        ``ids[i]`` is the label that became ``i + 1``.

    Raises
    ------
    TypeError
        If the labels are no integers.
    ValueError
        If a label is negative.
    """
    check_integer(labels, name)
    labels = as_numpy(labels)
    if labels.size == 0:
        return np.zeros(labels.shape, np.int32), np.zeros(0, labels.dtype)
    flat = labels.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)  # of runs of one label
    runs = flat[starts]
    low, high = int(runs.min()), int(runs.max())
    if low < 0:
        raise ValueError(f"{name} must not be negative, got {low}")
    if high > 4 * labels.size + 1024:  # a table of all possible labels would be too large
        ids, numbers = np.unique(runs, return_inverse=True)
        first = int(ids[0] != 0)
        ids, numbers = ids[1 - first :], (numbers + first).astype(np.int32)
    else:
        present = np.zeros(high + 1, dtype=bool)
        present[runs] = True
        present[0] = False
        ids = np.flatnonzero(present).astype(labels.dtype)
        if len(ids) == high:
            return labels.astype(np.int32, copy=False), ids
        table = np.cumsum(present, dtype=np.int32)
        table[0] = 0
        numbers = table[runs]
    lengths = np.diff(starts, append=labels.size)
    return np.repeat(numbers, lengths).reshape(labels.shape), ids


def in_kind(labels: np.ndarray, like: Array | torch.device | None) -> Array:
    """Return labels as uint64 array, or as int64 tensor where the caller works with tensors.

    Parameters
    ----------
    labels : integer array
        Nobody else's: it is returned itself where it is uint64 already.
    like : array, tensor, torch.device or None
        The caller's data, or the device of its tensors.

    Returns
    -------
    uint64 array or int64 tensor
    """
    if isinstance(like, torch.Tensor):
        like = like.device
    if isinstance(like, torch.device):
        return torch.from_numpy(labels.astype(np.int64)).to(like)
    return labels.astype(np.uint64, copy=False)


def remove_small(labels: Array, min_size: int) -> Array:
    """Set objects of few voxels to 0.

    Parameters
    ----------
    labels : (*spatial) integer array or tensor
        Object ids, 0 = no object.
    min_size : int
        Objects with fewer voxels go.

    Returns
    -------
    (*spatial) uint64 array or int64 tensor
        The other objects keep their ids.

    Raises
    ------
    TypeError
        If the labels are no integers.
    ValueError
        If a label is negative.
    """
    check_integer(labels, "labels")
    result = np.empty(tuple(labels.shape), np.uint64)
    stacks = (labels, result) if labels.ndim == 3 else (labels[None], result[None])
    sections, kept = map(list, stacks)  # one at a time, to save memory
    ids, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for section in sections:
        numbers, present = compact(section)
        ids.append(present.astype(np.uint64))
        counts.append(np.bincount(numbers.ravel(), minlength=len(present) + 1)[1:])
    every, where = np.unique(np.concatenate(ids), return_inverse=True)
    small = every[np.bincount(where, weights=np.concatenate(counts)) < min_size]
    for section, own in zip(sections, kept, strict=True):
        own[...] = as_numpy(section)
        own[np.isin(own, small)] = 0
    return in_kind(result, labels)
