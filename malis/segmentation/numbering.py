"""Label volumes: numbering them, answering in the caller's kind, removing small objects."""

import numpy as np
import torch
from scipy import sparse

from malis._checks import Array, as_numpy, check_integer
from malis.labels import number_labels


def compact(labels: Array, name: str = "labels") -> tuple[np.ndarray, np.ndarray]:
    """Check labels, an array or tensor, and number them: see `malis.labels.number_labels`."""
    check_integer(labels, name)
    numbers, ids = number_labels(as_numpy(labels))
    if ids.size and ids[0] < 0:
        raise ValueError(f"{name} must not be negative, got {ids[0]}")
    return numbers, ids


def joined(n: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return a number 0, 1, ... of the connected component of each of n things."""
    pairs = sparse.coo_array((np.ones(len(one), bool), (one, other)), (n, n))
    return sparse.csgraph.connected_components(pairs, directed=False)[1]


def in_kind(labels: np.ndarray, like: Array | torch.device | None) -> Array:
    """Return labels as uint64 array, or as int64 tensor where the caller works with tensors.

    `like` is the caller's data, or the device of its tensors. Labels that are uint64 already are
    returned themselves.
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
    numbers, ids = compact(labels)
    sizes = np.bincount(numbers.ravel(), minlength=len(ids) + 1)
    kept = np.append(np.uint64(0), ids.astype(np.uint64))
    kept[sizes < min_size] = 0
    return in_kind(kept[numbers], labels)
