"""Volumes in HDF5 files: links are followed, and filters come from hdf5plugin where it is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from cremi_eval.datasets import check_filters, use_filters, volumes_in
from malis.scale.datasets import Found, choose


def find_in_hdf5(path: str, file: h5py.File, dataset: str | None, kind: str | None) -> Found:
    """Return the dataset that is meant.

    Raises
    ------
    FileNotFoundError, ValueError
        As `malis.scale.datasets.choose`, and if a filter of the dataset is not installed.
    """
    volumes = volumes_in(file)

    def is_volume(name: str) -> bool:
        return name in volumes and isinstance(file.get(name), h5py.Dataset)

    chosen = choose(path, dataset, kind, is_volume, lambda: volumes)
    check_filters(f"{path}/{chosen}", file[chosen])
    return Found(path, chosen, file[chosen])


@contextlib.contextmanager
def hdf5_file(path: str) -> Iterator[h5py.File]:
    """Open a file for reading."""
    use_filters()
    try:
        is_hdf5 = h5py.is_hdf5(path)
        with Path(path).open("rb"):  # says what the system says, of permissions for instance
            file = h5py.File(path, "r") if is_hdf5 else None
    except OSError as error:
        if error.errno is not None and error.strerror:
            raise
        reason = " ".join(str(error).split())
        kind = "cannot be opened" if "unable to lock" in reason else "is damaged or truncated"
        raise ValueError(f"{path} {kind}: {reason}") from error
    if file is None:
        raise ValueError(f"{path} is no volume: neither an HDF5 file nor a Zarr folder")
    with file:
        yield file
