"""Which dataset of a file is meant: one that is named, or one of a usual name; never a guess."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from cremi_eval.datasets import check_filters, use_filters, volumes_in

USUAL_NAMES = {
    "raw": ("volumes/raw", "raw"),
    "labels": ("segmentation", "volumes/labels/neuron_ids", "labels"),
    "affinities": ("affinities", "volumes/affinities"),
}
DEFAULT_DATASETS = ("segmentation", "volumes/raw", "raw", "volumes/labels/neuron_ids", "affinities")
LISTED = 20  # volumes that a message lists


class Found(NamedTuple):
    """An array in a file.

    Attributes
    ----------
    path, dataset : str
        File or folder, and path inside.
    array : h5py.Dataset or zarr.Array
    image : dict or None
        The image of OME-Zarr, one of its ``multiscales``, of which the array is a level.
    level : str
        Path of the array as the image names it.
    """

    path: str
    dataset: str
    array: Any
    image: Any = None
    level: str = ""


def choose(
    path: str,
    dataset: str | None,
    kind: str | None,
    is_volume: Callable[[str], bool],
    volumes: Callable[[], dict[str, str]],
) -> str:
    """Return the dataset that is meant; see `malis.scale.volumes.open_volume`.

    `is_volume` tells whether there is a volume of a name; `volumes` lists all, which may take long,
    with what a message says of each.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or none that is the obvious one; what there is is listed.
    """
    usual = DEFAULT_DATASETS if kind is None else USUAL_NAMES[kind]
    present = [name for name in ([dataset] if dataset else usual) if is_volume(name)]
    if len(present) == 1 or (present and kind is None):
        return present[0]
    found = volumes()
    if kind is None and dataset is None and len(found) == 1 and is_volume(*found):
        return next(iter(found))
    shown = [f"{name} {said}" for name, said in sorted(found.items())]
    more = [f"and {len(shown) - LISTED} more"] * (len(shown) > LISTED)
    listed = ", ".join(shown[:LISTED] + more) or "no volume at all"
    if dataset:
        raise FileNotFoundError(f"{path} has no dataset {dataset!r}; it holds {listed}")
    if kind is None or present:
        raise ValueError(f"{path} holds {listed}; say which dataset is meant")
    raise FileNotFoundError(
        f"{path} holds no {kind} under a usual name ({', '.join(usual)}), but {listed}; name the "
        f"dataset, {path}::DATASET"
    )


def find_in_hdf5(path: str, file: h5py.File, dataset: str | None, kind: str | None) -> Found:
    """Return the dataset that is meant; see `choose`, and `cremi_eval.datasets.check_filters`."""
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
    Path(path).open("rb").close()  # the system says more of permissions, for instance, than HDF5
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no volume: neither an HDF5 file nor a Zarr folder")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if error.errno:  # trouble of the system, or a lock
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or truncated: {reason}") from error
    with file:
        yield file
