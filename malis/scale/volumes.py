"""Volumes larger than memory: found in a file and opened without being read.

What stands in a file is an array, the size of its voxels and the place of its corner, see
`malis.scale.placement`. `open_volume` opens CREMI and other HDF5 files, OME-Zarr and plain Zarr.
Which dataset is meant is never guessed among several: it has a usual name, or it is named.
"""

import errno
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cremi_eval.datasets import use_filters
from malis.inference.grey_values import GreyRange, choose_range, sample_voxels, to_bytes
from malis.scale.datasets import Found, find_in_hdf5, hdf5_file
from malis.scale.placement import (
    Placement,
    chosen_place,
    order_of_axes,
    placement_of_array,
    placement_of_image,
)
from malis.scale.zarr_folders import find_in_zarr, zarr_root

KINDS = {  # axes, types, and what messages call them
    "raw": ("(z, y, x)", "uif", "numbers"),
    "labels": ("(z, y, x)", "ui", "integers"),
    "affinities": ("(c, z, y, x)", "f", "floats or uint8"),
}


@dataclass
class StoredArray:
    """A volume in a file, read piece by piece: ``source[0:8, 0:64, 0:64]`` is an array.

    It can be pickled; whoever receives it opens the file for itself.

    Attributes
    ----------
    path : str
        HDF5 file, Zarr folder, zipped Zarr, or URL of a Zarr.
    dataset : str
        Path of the array inside; empty where ``path`` is the array itself.
    shape : tuple of int
        (z, y, x), or with channels (C, z, y, x).
    dtype : numpy dtype
        What is read; of grey values and affinities not always what is stored.
    resolution, offset : (3,) tuple of float
        Size of a voxel and place of the first one in nm, (z, y, x).
    attributes : dict
        Of the array.
    order : tuple of int
        The stored axes that are those of the shape; others have length 1.
    has_offset : bool
        Whether the file names the offset; otherwise it is 0.
    grey_range : (2,) tuple of float, optional
        Grey values that are read as 0 and 255 in uint8; see `in_trained_range`.
    """

    path: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype
    resolution: tuple[float, ...]
    offset: tuple[float, ...]
    attributes: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    order: tuple[int, ...] = ()
    has_offset: bool = True
    grey_range: GreyRange | None = None
    _array: Any = field(default=None, repr=False, compare=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def name(self) -> str:
        """What messages call it: path and dataset."""
        return f"{self.path}/{self.dataset}" if self.dataset else self.path

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Size of the pieces that are decompressed as a whole; None if it is stored in one."""
        chunks = self._opened().chunks
        return None if chunks is None else tuple(chunks[axis] for axis in self.order)

    def as_floats(self) -> "StoredArray":
        """Return affinities that are stored as uint8, up to 255, as floats in [0, 1]."""
        return replace(self, dtype=np.dtype(np.float32)) if self.dtype == np.uint8 else self

    def __getitem__(self, index: Any) -> np.ndarray:
        index = self._full_index(index if isinstance(index, tuple) else (index,))
        array = self._opened()
        stored: list[Any] = [0] * array.ndim  # axes of length 1 are left out
        for axis, part in zip(self.order, index, strict=True):
            stored[axis] = part
        kept = [a for a, part in zip(self.order, index, strict=True) if not np.isscalar(part)]
        values = self._read(array, tuple(stored))
        values = values.transpose([sorted(kept).index(axis) for axis in kept])
        if self.grey_range is not None:
            return to_bytes(values, self.grey_range)
        if self.dtype == np.float32 and values.dtype == np.uint8:
            return values / np.float32(255)
        return values

    def _full_index(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return an index with one number or slice for every axis."""
        named = [part for part in index if part is not Ellipsis]
        if len(named) > self.ndim:
            raise IndexError(f"{self.name} has {self.ndim} axes, got {len(index)} indices")
        steps = [part.step for part in named if isinstance(part, slice)]
        if any(step is not None and step < 1 for step in steps):
            raise IndexError(f"{self.name} is read in steps of at least 1, got {index}")
        before = next((i for i, part in enumerate(index) if part is Ellipsis), len(index))
        rest = (slice(None),) * (self.ndim - len(named))
        return (*named[:before], *rest, *named[before:])

    def _read(self, array: Any, index: tuple[Any, ...]) -> np.ndarray:
        try:
            return np.asarray(array[index])
        except (OSError, ValueError, RuntimeError) as error:  # what codecs raise on damaged bytes
            if getattr(error, "errno", None) not in (None, errno.EIO):
                raise OSError(f"{self.name} cannot be read: {error}") from error
            raise OSError(f"{self.name} is damaged and cannot be read: {error}") from error

    def _opened(self) -> Any:
        if self._array is None:
            self._array = _open_array(self.path, self.dataset)
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}


def open_volume(
    path: str | Path,
    dataset: str | None = None,
    *,
    kind: str | None = None,
    resolution: Sequence[float] | None = None,
) -> StoredArray:
    """Open a volume for reading; voxels are read when they are asked for.

    Parameters
    ----------
    path : str or Path
        A CREMI file or another HDF5 file; a Zarr folder of format 2 or 3, OME or plain, also as a
        zip file; or the URL of a Zarr (needs fsspec and, for the web, aiohttp).
    dataset : str, optional
        Path inside, for instance "volumes/labels/neuron_ids", "labels/neurons" or, a coarser level
        of a pyramid, "labels/neurons/1". By default, if `kind` says what is wanted, the one that
        has a usual name of its kind (`malis.scale.datasets`) or, for labels, is the only one in the
        group ``labels`` of an OME-Zarr image; otherwise the first that exists of a few usual names,
        or else the only volume that there is.
    kind : {"raw", "labels", "affinities"}, optional
        What is wanted: raw data are numbers on three axes, labels integers on three axes,
        affinities floats on four, or uint8 up to 255, which become floats.
    resolution : (3,) sequence of float, optional
        Size of a voxel in nm, (z, y, x), for files that do not name it. Where a file does, this
        one is taken, with a warning if they differ.

    Returns
    -------
    StoredArray

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path, or no such dataset; what there is is listed.
    ValueError
        If it is no volume, holds several of which none is the obvious one, does not tell the size
        of its voxels, or is not of the kind that is wanted.
    OSError
        If it cannot be opened.
    """
    path = str(path)
    if "://" not in path and not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    dataset = dataset.strip("/") if dataset else None
    if _is_hdf5(path):
        with hdf5_file(path) as file:
            volume = _stored(find_in_hdf5(path, file, dataset, kind), resolution)
    else:
        try:
            volume = _stored(find_in_zarr(path, dataset, kind), resolution)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has metadata that cannot be read: {error!r}") from error
    if kind is not None:
        check_kind(volume, kind)
    return volume.as_floats() if kind == "affinities" else volume


def offsets_in_volume(offsets: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return offsets with three axes; a network that predicts sections has none along z."""
    return tuple((0,) * (3 - len(step)) + tuple(step) for step in offsets)


def in_trained_range(
    source: StoredArray, card: Mapping[str, Any], wanted: Sequence[float | str] | None = None
) -> StoredArray:
    """Return raw data with the black and white that a network was trained with, by its card.

    A source that has a range stays as it is; another range than the card's may be `wanted`, see
    `malis.inference.grey_values.choose_range`.

    Raises
    ------
    ValueError
        If the grey values do not use the range, or it makes no sense.
    """
    trained = card.get("grey_range")
    if source.grey_range or (source.dtype == np.uint8 and wanted is None and trained is None):
        return source
    chosen = choose_range(sample_voxels(source), wanted, trained, name=source.name)
    if chosen is None:
        return source
    return replace(source, grey_range=chosen, dtype=np.dtype(np.uint8))


def check_kind(volume: StoredArray, kind: str) -> None:
    """Raise a ValueError unless a volume can be what it is taken for; see `open_volume`."""
    axes, types, said = KINDS[kind]
    if volume.ndim != axes.count(",") + 1:
        raise ValueError(f"{volume.name} must have the axes {axes} of {kind}, got {volume.shape}")
    if volume.dtype.kind not in types and (kind, volume.dtype) != ("affinities", np.uint8):
        raise ValueError(f"{volume.name} must hold {said}, as {kind} do, got {volume.dtype}")


def _stored(found: Found, resolution: Sequence[float] | None) -> StoredArray:
    """Describe an array; where the user names the resolution, metadata may make no sense."""
    path, dataset, array = found.path, found.dataset, found.array
    name = f"{path}/{dataset}".rstrip("/")
    try:
        placement = _placement(name, found)
    except ValueError:
        if resolution is None:
            raise
        placement = Placement(order_of_axes(name, array.shape), None, None)
    return StoredArray(
        path,
        dataset,
        tuple(array.shape[axis] for axis in placement.order),
        array.dtype,
        *chosen_place(name, placement, resolution),
        attributes=dict(array.attrs),
        order=placement.order,
        has_offset=placement.offset is not None,
    )


def _placement(name: str, found: Found) -> Placement:
    array = found.array
    if found.image is not None:
        placement = placement_of_image(name, array.shape, found.image, found.level)
        if placement.resolution is not None:
            return placement
    axes = getattr(getattr(array, "metadata", None), "dimension_names", None)
    return placement_of_array(name, array.shape, dict(array.attrs), axes)


def _is_hdf5(path: str) -> bool:
    return "://" not in path and Path(path).is_file() and not zipfile.is_zipfile(path)


def _open_array(path: str, dataset: str) -> Any:
    if _is_hdf5(path):
        use_filters()
        return h5py.File(path, "r")[dataset]
    root = zarr_root(path)
    return root[dataset] if dataset else root
