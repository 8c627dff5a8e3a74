"""What an HDF5 file holds, and whether it can be read."""

import contextlib
import importlib
from typing import Any

import h5py


def volumes_in(
    group: h5py.Group, prefix: str = "", above: tuple[h5py.h5g.GroupID, ...] = ()
) -> dict[str, str]:
    """List the datasets of 3 to 5 axes in a group and below, links followed.

    Parameters
    ----------
    group : h5py.Group
        A file or a group in it.
    prefix : str
        What to put before all names.
    above : tuple of h5py.h5g.GroupID
        Groups that are being listed; one that holds itself is listed once.

    Returns
    -------
    dict of str to str
        For every path, shape and type, or that the link leads nowhere.
    """
    volumes, above = {}, (*above, group.id)
    for name in group:
        node = group.get(name)
        if node is None:
            link = group.get(name, getlink=True)
            target = f"{getattr(link, 'filename', '')}:{link.path}".lstrip(":")
            volumes[prefix + name] = f"(a link to {target}, which is not there)"
        elif isinstance(node, h5py.Dataset) and 3 <= node.ndim <= 5:
            volumes[prefix + name] = f"{tuple(node.shape)} {node.dtype}"
        elif isinstance(node, h5py.Group) and node.id not in above:
            volumes |= volumes_in(node, f"{prefix}{name}/", above)
    return volumes


def use_filters() -> None:
    """Let HDF5 use the filters of the package hdf5plugin, if it is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


def check_filters(name: str, dataset: Any) -> None:
    """Refuse a dataset that is whole, but compressed by a filter that is not installed.

    Parameters
    ----------
    name : str
        What to call it in the message.
    dataset : h5py.Dataset

    Raises
    ------
    ValueError
        With number and name of the filter.
    """
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, _, _, title = properties.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            title = title.decode(errors="replace").split("\0")[0] or "unknown"
            raise ValueError(
                f"{name} is compressed by the HDF5 filter {number} ({title}), which is not "
                "installed; pip install hdf5plugin brings the usual ones"
            )
