"""Walk through a volume in pieces that fit into memory."""

import errno
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np


def slabs(*volumes: Any, max_bytes: int = 1 << 25) -> Iterator[slice]:
    """Cut the first axis of volumes of one shape into pieces.

    Parameters
    ----------
    *volumes : arrays or h5py.Datasets of one shape
        A piece holds whole chunks of those that are stored in chunks, so that none is
        decompressed twice.
    max_bytes : int
        Size of a piece of the first volume, as far as its sections and chunks allow.

    Yields
    ------
    slice
        Where a piece lies on the first axis.
    """
    shape, dtype = volumes[0].shape, volumes[0].dtype
    section_bytes = max(1, dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)))
    chunks = [volume.chunks for volume in volumes if getattr(volume, "chunks", None)]
    depth = max((chunk[0] for chunk in chunks), default=1)
    step = max(1, max_bytes // section_bytes // depth) * depth
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def read(data: Any, part: slice | tuple[slice, ...] = ()) -> np.ndarray:
    """Take a part of an array, or read it from a dataset.

    Parameters
    ----------
    data : array or h5py.Dataset
        The voxels.
    part : slice or tuple of slices
        Which of them; all by default.

    Returns
    -------
    array
        A view where `data` is an array.

    Raises
    ------
    OSError
        If it cannot be read, for instance because it is damaged; names file and dataset.
    """
    try:
        return np.asarray(data[part])
    except OSError as error:
        if not isinstance(data, h5py.Dataset):  # it knows its own name
            raise
        where = f"{data.file.filename}: dataset {data.name}"
        if error.errno not in (None, errno.EIO):  # trouble of the system, the file may be whole
            raise OSError(error.errno, f"{where} cannot be read ({error})") from error
        raise OSError(f"{where} cannot be read, the file is damaged ({error})") from error
