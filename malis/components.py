"""Objects that fall apart: a crop that cuts an object in two leaves two objects."""

import numpy as np
from skimage.measure import label

from malis.checks import check_array, check_integer
from malis.compiling import uncompiled


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
        If labels are no array of integers.
    """
    check_array(labels, "labels")
    check_integer(labels, "labels")
    if labels.dtype == np.uint64:
        labels = labels.view(np.int64)  # scikit-image compares int64; the same bits compare alike
    return label(labels, background=0, connectivity=1).astype(np.int64, copy=False)


@uncompiled
def relabel_batch(labels: np.ndarray) -> np.ndarray:
    """Relabel the components of every volume of a batch; no id occurs in two of them.

    Parameters
    ----------
    labels : (B, *spatial) integer array
        Object ids, 0 = background; any integer type, ids up to 2^64-1.

    Returns
    -------
    (B, *spatial) int64 array
        Background stays 0.

    Raises
    ------
    TypeError
        If labels are no array of integers.
    """
    check_array(labels, "labels")
    # One call for all: the volumes are stacked, with a row of background between any two.
    stacked = np.pad(labels, [(0, 0), (0, 1), *[(0, 0)] * (labels.ndim - 2)])
    components = relabel_components(stacked.reshape(-1, *labels.shape[2:]))
    return np.ascontiguousarray(components.reshape(stacked.shape)[:, : labels.shape[1]])
