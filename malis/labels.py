"""Labels: objects that fall apart in a crop, and margins between objects that touch.

A crop that cuts an object in two leaves two objects: nothing in the crop joins them.

Where labels touch, nobody has drawn the membrane, and their border runs a voxel or two beside it
here and there. To a loss on single edges that is a little noise. To the constrained MALIS loss it
is a hole: in its negative pass all edges of an object are 1, so one voxel of an object on the far
side of the membrane joins two objects for good, whatever the network says about the membrane. With
a margin of background there is no such shortcut, and a membrane anywhere in the margin will do.
"""

from collections.abc import Sequence

import numpy as np
import torch

from malis._checks import Array, as_numpy, check_integer, comparable, like, uncompiled


def relabel_components(labels: np.ndarray) -> np.ndarray:
    """Give every connected part of every object an id of its own.

    Voxels are connected through direct neighbours (4 in 2D, 6 in 3D).

    Parameters
    ----------
    labels : (*spatial) integer array
        Object ids, 0 = background; any integer type, ids up to 2^64-1. One volume, no batch axis;
        for a batch see `relabel_batch`.

    Returns
    -------
    (*spatial) int64 array
        Ids 1, 2, ... in the order of their first voxel; background stays 0.

    Raises
    ------
    TypeError
        If labels are not an array of integers.
    """
    if not isinstance(labels, np.ndarray):
        raise TypeError(f"labels must be a NumPy array, got {type(labels).__name__}")
    check_integer(labels, "labels")
    from skimage.measure import label  # takes a while to import, and not all need it

    ids = labels.reshape(
        [n for n in labels.shape if n != 1] or [1]
    )  # it would turn other axes round
    if ids.dtype == np.uint64:
        ids = ids.view(np.int64)  # scikit-image compares int64; the same bits compare alike
    components = label(ids, background=0, connectivity=1)
    return components.astype(np.int64, copy=False).reshape(labels.shape)


def number_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace labels by 1, 2, ... in the order of their ids; 0 stays 0.

    Return int32 numbers, and an array of the ids, without 0. Only the first voxels of runs of one
    label are looked up, in a table unless ids are so high that sorting is less work.
    """
    flat = labels.ravel()
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1])[: flat.size])
    runs = flat[starts]
    if 0 <= runs.min(initial=0) <= runs.max(initial=0) < 4 * flat.size:
        present = np.zeros(int(runs.max()) + 1, dtype=bool)
        present[runs] = present[0] = True
        ids, numbers = np.flatnonzero(present).astype(flat.dtype), present.cumsum()[runs] - 1
        first = 0
    else:
        ids, numbers = np.unique(runs, return_inverse=True)
        first = int(ids.size > 0 and ids[0] != 0)  # without background, numbers begin at 1
    numbers = (numbers + first).astype(np.int32)
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(numbers, lengths).reshape(labels.shape), ids[1 - first :]


@uncompiled
def relabel_batch(labels: torch.Tensor, backend: str = "auto") -> torch.Tensor:
    """Relabel the components of every volume of a batch; no id occurs in two of them.

    Parameters
    ----------
    labels : (B, *spatial) integer tensor
        Object ids, 0 = background; any integer type, ids up to 2^64-1.
    backend : str
        "parallel" for tensor operations, as on a CUDA device; otherwise it is done on the host.

    Returns
    -------
    (B, *spatial) int64 tensor
        On the same device; background stays 0.
    """
    if backend == "parallel" or labels.is_cuda:
        from malis.tensor_backend import parallel_components

        return parallel_components(labels)
    # One call for all: the volumes are stacked, with a row of background between any two.
    volumes = as_numpy(labels)
    stacked = np.pad(volumes, [(0, 0), (0, 1), *[(0, 0)] * (volumes.ndim - 2)])
    components = relabel_components(stacked.reshape(-1, *volumes.shape[2:]))
    components = components.reshape(stacked.shape)[:, : volumes.shape[1]]
    return like(np.ascontiguousarray(components), labels)


@uncompiled
def grow_boundary(labels: Array, steps: int | Sequence[int] = 1) -> Array:
    """Turn the outermost voxels of every object into background.

    Two objects that touch are then 2 x `steps` voxels apart; an object that is thinner than that
    vanishes. The faces of the volume are not borders.

    Parameters
    ----------
    labels : (*spatial) integer array or tensor
        Object ids, 0 = background; any integer type. One volume, no batch axis; for a batch see
        `GrowBoundaryLoss`.
    steps : int or (ndim,) sequence of int
        Voxels to take away, along every axis alike or along each: ``(0, 2, 2)`` for sections that
        are labelled one by one.

    Returns
    -------
    (*spatial) array or tensor of the same type

    Raises
    ------
    TypeError
        If labels are not an array or tensor of integers, or steps are not integers.
    ValueError
        If steps are negative or not as many as the axes.

    References
    ----------
    The node ``GrowBoundary`` of gunpowder (Funke and others), in whose training pipelines for CREMI
    it stands before the affinities are made.

    Examples
    --------
    >>> grow_boundary(np.array([5, 5, 5, 8, 8, 8]))
    array([5, 5, 0, 0, 8, 8])
    """
    check_integer(labels, "labels")
    along = np.asarray(steps)
    check_integer(along, "steps")
    along = np.repeat(along, labels.ndim) if along.ndim == 0 else along
    if len(along) != labels.ndim or along.min() < 0:
        raise ValueError(
            f"steps must be at least 0, one for each of {labels.ndim} axes, got {steps}"
        )
    tensor = isinstance(labels, torch.Tensor)
    grown = comparable(labels).clone() if tensor else labels.copy()
    for step in range(along.max()):
        border = (
            torch.zeros_like(grown, dtype=torch.bool) if tensor else np.zeros(grown.shape, bool)
        )
        for axis in (axis for axis, n in enumerate(along) if n > step):
            ids, marks = grown.swapaxes(0, axis), border.swapaxes(0, axis)
            differ = ids[1:] != ids[:-1]
            marks[1:] |= differ
            marks[:-1] |= differ
        grown[border] = 0
    return grown.to(labels.dtype) if tensor else grown
