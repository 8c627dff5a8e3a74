"""Volumes in HDF5 files: links are followed, and filters come from hdf5plugin where it is."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from malis.scale.datasets import Found, choose, described


def find_in_hdf5(path: str, file: h5py.File, dataset: str | None, kind: str | None) -> Found:
    """Return the dataset that is meant.

    Raises
    ------
    FileNotFoundError, ValueError
        As `malis.scale.datasets.choose`, and if a filter of the dataset is not installed.
    """
    volumes = _volumes(file)

    def is_volume(name: str) -> bool:
        return name in volumes and isinstance(file.get(name), h5py.Dataset)

    chosen = choose(path, dataset, kind, is_volume, lambda: volumes)
    check_filters(f"{path}/{chosen}", file[chosen])
    return Found(path, chosen, file[chosen])


def use_filters() -> None:
    """Let HDF5 use the filters of the package hdf5plugin, if it is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


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


def _volumes(group: h5py.Group, prefix: str = "", above: tuple[Any, ...] = ()) -> dict[str, str]:
    """List the volumes below a group, links followed; a group that holds itself is listed once."""
    volumes = {}
    for name in group:
        node = group.get(name)
        if node is None:
            link = group.get(name, getlink=True)
            target = f"{getattr(link, 'filename', '')}:{link.path}".lstrip(":")
            volumes[prefix + name] = f"(a link to {target}, which is not there)"
        elif isinstance(node, h5py.Dataset) and 3 <= node.ndim <= 5:
            volumes[prefix + name] = described(node)
        elif isinstance(node, h5py.Group) and node.id not in above:
            volumes |= _volumes(node, f"{prefix}{name}/", (*above, group.id))
    return volumes


def check_filters(name: str, node: h5py.Dataset) -> None:
    """Refuse a dataset that is whole, but compressed by a filter that is not installed."""
    properties = node.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, _, _, title = properties.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            title = title.decode(errors="replace").split("\0")[0] or "unknown"
            raise ValueError(
                f"{name} is compressed by the HDF5 filter {number} ({title}), which is not "
                "installed; pip install hdf5plugin brings the usual ones"
            )
