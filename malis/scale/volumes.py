"""Volumes larger than memory: opened without being read, created to be written block by block.

What stands in a file is an array, the size of its voxels and the place of its corner, both in
nanometres. CREMI files keep them as attributes of an HDF5 dataset, OME-Zarr in the ``multiscales``
of a group, other Zarr arrays often as the attributes ``resolution`` and ``offset``. `open_volume`
reads all of them; `create_ome_zarr` writes OME-Zarr 0.5 in Zarr format 3.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np

USUAL_NAMES = {
    "raw": ("volumes/raw", "raw"),
    "labels": ("segmentation", "volumes/labels/neuron_ids", "labels"),
    "affinities": ("affinities", "volumes/affinities"),
}
DEFAULT_DATASETS = ("segmentation", "volumes/raw", "raw", "volumes/labels/neuron_ids", "affinities")
NANOMETRES = {"angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6}
LARGEST_CHUNK, SMALLEST_CHUNK = 64, 16
PROGRESS = "progress"  # a group with notes of `malis.scale`, no volumes


def scale_package(name: str) -> ModuleType:
    """Import a package of ``requirements-scale.txt``.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".", maxsplit=1)[0]:
            raise
        raise ModuleNotFoundError(
            f"this needs the package {name}: pip install -r requirements-scale.txt", name=name
        ) from error


@dataclass
class StoredArray:
    """A volume in a file, read piece by piece: ``source[0:8, 0:64, 0:64]`` is an array.

    It can be pickled; whoever receives it opens the file for itself.

    Attributes
    ----------
    path : str
        HDF5 file, Zarr folder or URL of a Zarr.
    dataset : str
        Path of the array inside; empty where ``path`` is the array itself.
    shape : tuple of int
        (z, y, x), or with channels (C, z, y, x).
    dtype : numpy dtype
    resolution, offset : (3,) tuple of float
        Size of a voxel and place of the first one in nm, (z, y, x).
    attributes : dict
        Further attributes of the array.
    """

    path: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype
    resolution: tuple[float, ...]
    offset: tuple[float, ...]
    attributes: dict[str, Any] = field(default_factory=dict, repr=False)
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
        return None if chunks is None else tuple(chunks[-self.ndim :])

    def __getitem__(self, index: Any) -> np.ndarray:
        array = self._opened()
        index = index if isinstance(index, tuple) else (index,)
        if sum(part is not Ellipsis for part in index) > self.ndim:
            raise IndexError(f"{self.name} has {self.ndim} axes, got {len(index)} indices")
        steps = [part.step for part in index if isinstance(part, slice)]
        if any(step is not None and step < 1 for step in steps):
            raise IndexError(f"{self.name} is read in steps of at least 1, got {index}")
        single = (0,) * (array.ndim - self.ndim)  # axes of length 1 that were left out
        try:
            return np.asarray(array[single + index])
        except (OSError, ValueError, RuntimeError) as error:  # what codecs raise on damaged bytes
            raise OSError(f"{self.name} is damaged and cannot be read: {error}") from error

    def _opened(self) -> Any:
        if self._array is None:
            self._array = _open_array(self.path, self.dataset)
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}


def open_volume(
    path: str | Path, dataset: str | None = None, *, kind: str | None = None
) -> StoredArray:
    """Open a volume for reading; voxels are read when they are asked for.

    Parameters
    ----------
    path : str or Path
        A CREMI file or another HDF5 file; a Zarr folder of format 2 or 3, OME or plain; or the URL
        of a Zarr (needs fsspec and, for the web, aiohttp).
    dataset : str, optional
        Path inside, for instance "volumes/labels/neuron_ids". By default the first that exists of
        `DEFAULT_DATASETS`, or else the only volume that there is.
    kind : {"raw", "labels", "affinities"}, optional
        What is wanted. Then a dataset that is not named must have one of the `USUAL_NAMES` of its
        kind. Raw data and labels have three axes, affinities four; labels are integers.

    Returns
    -------
    StoredArray

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path, or no such dataset.
    ValueError
        If it is no volume, holds several of which none is the obvious one, does not tell the size
        of its voxels, or is not of the kind that is wanted.
    """
    if kind is not None:
        return _checked_kind(_open_kind(path, dataset, kind), kind)
    name = str(path)
    if "://" not in name:
        if not Path(name).exists():
            raise FileNotFoundError(f"{name} does not exist")
        if Path(name).is_file():
            return _open_hdf5(name, dataset)
    return _open_zarr(name, dataset)


def _open_kind(path: str | Path, dataset: str | None, kind: str) -> StoredArray:
    if dataset is not None:
        return open_volume(path, dataset)
    for name in USUAL_NAMES[kind]:
        try:
            return open_volume(path, name)
        except FileNotFoundError:
            if "://" not in str(path) and not Path(path).exists():
                raise
    volume = open_volume(path)
    others = [name for other, names in USUAL_NAMES.items() if other != kind for name in names]
    if volume.dataset in others:
        raise FileNotFoundError(
            f"{path} holds no {kind}: there is none of {', '.join(USUAL_NAMES[kind])}"
        )
    return volume


def _checked_kind(volume: StoredArray, kind: str) -> StoredArray:
    axes = "(c, z, y, x)" if kind == "affinities" else "(z, y, x)"
    if volume.ndim != axes.count(",") + 1:
        raise ValueError(f"{volume.name} must have the axes {axes} of {kind}, got {volume.shape}")
    if kind == "labels" and volume.dtype.kind not in "ui":
        raise ValueError(f"{volume.name} must hold integers, as labels do, got {volume.dtype}")
    return volume


def offsets_in_volume(offsets: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return offsets with three axes; a network that predicts sections has none along z."""
    return tuple((0,) * (3 - len(step)) + tuple(step) for step in offsets)


def create_ome_zarr(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    resolution: Sequence[float],
    offset: Sequence[float],
    block: tuple[int, ...],
    levels: Sequence[tuple[int, int, int]] = ((1, 1, 1),),
    fill_value: Any = 0,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty OME-Zarr 0.5 image to be filled block by block.

    Every block is one file (a shard, with checksums) per channel, made of smaller chunks that
    viewers load one by one. So no two blocks ever write the same file.

    Parameters
    ----------
    path : str or Path
        The group to create; it must not exist.
    shape : tuple of int
        (z, y, x) or (C, z, y, x).
    dtype : dtype
    resolution, offset : (3,) sequences of float
        In nm, (z, y, x).
    block : (3,) tuple of int
        Blocks in which it will be written.
    levels : sequence of (3,) tuples of int
        Factors by which the levels of the pyramid are coarser than the volume, the first (1, 1, 1).
        The block must divide by them.
    fill_value : scalar
        What unwritten voxels read as.
    attributes : mapping, optional
        Further attributes of the finest array.
    """
    zarr = scale_package("zarr")
    channels = shape[:-3]
    group = zarr.create_group(path, zarr_format=3)
    for level, factor in enumerate(levels):
        coarse = tuple(-(-n // f) for n, f in zip(shape[-3:], factor, strict=True))
        shard = tuple(n // f for n, f in zip(block, factor, strict=True))
        array = group.create_array(
            str(level),
            shape=(*channels, *coarse),
            dtype=dtype,
            chunks=(*(1 for _ in channels), *map(_chunk, shard)),
            shards=(*(1 for _ in channels), *shard),
            compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
            fill_value=fill_value,
            dimension_names=[*("c" for _ in channels), "z", "y", "x"],
        )
        scale = [float(r * f) for r, f in zip(resolution, factor, strict=True)]
        array.attrs.update({"resolution": scale, "offset": [float(x) for x in offset]})
        if level == 0:
            array.attrs.update(dict(attributes or {}))
    group.attrs["ome"] = _ome_metadata(Path(path).name, channels, resolution, offset, levels)


def pyramid(
    shape: tuple[int, ...], block: tuple[int, ...], resolution: tuple[float, ...]
) -> list[tuple[int, int, int]]:
    """Plan coarser levels for viewers: halve the finest axes until a level fits one screen.

    Parameters
    ----------
    shape, block : (3,) tuples of int
        Size of the volume and of a block; factors divide the block.
    resolution : (3,) tuple of float

    Returns
    -------
    list of (3,) tuples of int
        Factors of every level, the first (1, 1, 1).

    Examples
    --------
    >>> pyramid((125, 1250, 1250), (64, 512, 512), (40, 4, 4))
    [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]
    """
    levels = [(1, 1, 1)]
    while any(n > 256 * f for n, f in zip(shape, levels[-1], strict=True)):
        sides = [r * f for r, f in zip(resolution, levels[-1], strict=True)]
        halved = [2 if side < 2 * min(sides) else 1 for side in sides]
        coarser = tuple(f * h for f, h in zip(levels[-1], halved, strict=True))
        if any(b % f for b, f in zip(block, coarser, strict=True)):
            break
        levels.append(coarser)
    return levels


def _chunk(size: int) -> int:
    """Return a divisor of a block's side that suits a viewer; the side itself if there is none."""
    divisors = [n for n in range(SMALLEST_CHUNK, LARGEST_CHUNK + 1) if size % n == 0]
    return max(divisors, default=size)


def _ome_metadata(
    name: str,
    channels: tuple[int, ...],
    resolution: Sequence[float],
    offset: Sequence[float],
    levels: Sequence[tuple[int, int, int]],
) -> dict[str, Any]:
    """Write down the ``ome`` attribute of an image group, OME-NGFF 0.5."""
    one, zero = [1.0 for _ in channels], [0.0 for _ in channels]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {
                    "type": "scale",
                    "scale": one + [float(r * f) for r, f in zip(resolution, factor, strict=True)],
                },
                {"type": "translation", "translation": zero + [float(x) for x in offset]},
            ],
        }
        for level, factor in enumerate(levels)
    ]
    space = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    axes = [{"name": "c", "type": "channel"} for _ in channels] + space
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
    }


def _open_hdf5(path: str, dataset: str | None) -> StoredArray:
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no volume: neither an HDF5 file nor a Zarr folder")
    found: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, node: found.append(name) if _is_volume(node) else None)
            chosen = _choose(path, dataset and dataset.strip("/"), found)
            node = file[chosen]
            place = _resolution_and_offset(f"{path}/{chosen}", node.attrs)
            return StoredArray(path, chosen, node.shape, node.dtype, *place, _others(node))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


def _is_volume(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.ndim in (3, 4)


def _open_zarr(path: str, dataset: str | None) -> StoredArray:
    zarr = scale_package("zarr")
    try:
        node = zarr.open(path, mode="r")
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is no Zarr volume: {reason}") from error
    inside = []
    if isinstance(node, zarr.Group) and (dataset or not _multiscales(node)):
        wanted = dataset and dataset.strip("/")
        found = _zarr_volumes(node)
        level = wanted is not None and isinstance(node.get(wanted), zarr.Array)
        inside.append(wanted if level else _choose(path, wanted, found))
        node = node[inside[0]]
    elif dataset:
        raise FileNotFoundError(f"{path} is a single volume and has no dataset {dataset!r}")
    name = "/".join([path, *inside])
    if isinstance(node, zarr.Array):
        place = _resolution_and_offset(name, node.attrs)
    else:
        scales = _multiscales(node)[0]
        place = _place_of_multiscales(name, scales)
        inside.append(scales["datasets"][0]["path"])
        node = node[inside[-1]]
    shape = node.shape
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) not in (3, 4):
        raise ValueError(f"{name} must have the axes (z, y, x) or (c, z, y, x), got {node.shape}")
    return StoredArray(path, "/".join(inside), shape, node.dtype, *place, _others(node))


def _others(node: Any) -> dict[str, Any]:
    """Return the attributes of an array that do not say where it lies."""
    return {k: v for k, v in node.attrs.items() if k not in ("resolution", "offset")}


def _open_array(path: str, dataset: str) -> Any:
    if "://" not in path and Path(path).is_file():
        return h5py.File(path, "r")[dataset]
    return scale_package("zarr").open_array(path, path=dataset, mode="r")


def _choose(path: str, dataset: str | None, found: list[str]) -> str:
    """Return the dataset that is meant among those that were found."""
    listed = ", ".join(sorted(found)) or "no volume at all"
    if dataset is not None:
        if dataset not in found:
            raise FileNotFoundError(f"{path} has no dataset {dataset!r}; it holds {listed}")
        return dataset
    for name in DEFAULT_DATASETS:
        if name in found:
            return name
    if len(found) != 1:
        raise ValueError(f"{path} holds {listed}; say which dataset is meant")
    return found[0]


def _zarr_volumes(group: Any, prefix: str = "", depth: int = 3) -> list[str]:
    """List images and arrays below a group."""
    zarr = scale_package("zarr")
    found = []
    for name, node in group.members():
        if isinstance(node, zarr.Array) or _multiscales(node):
            found.append(prefix + name)
        elif depth > 1 and name != PROGRESS:
            found += _zarr_volumes(node, f"{prefix}{name}/", depth - 1)
    return found


def _multiscales(group: Any) -> list[dict[str, Any]]:
    """Return the multiscales of an OME-Zarr group, of version 0.5 or earlier."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes).get("multiscales", [])


def _place_of_multiscales(name: str, scales: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    """Read resolution and offset in nm of the finest level."""
    try:
        units = [NANOMETRES[axis.get("unit", "nanometer")] for axis in scales["axes"][-3:]]
        resolution, offset = np.ones(3), np.zeros(3)
        steps = scales["datasets"][0]["coordinateTransformations"]
        for step in [*steps, *scales.get("coordinateTransformations", [])]:
            if step["type"] == "scale":
                factor = np.array(step["scale"][-3:], dtype=float)
                resolution, offset = resolution * factor, offset * factor
            elif step["type"] == "translation":
                offset = offset + np.array(step["translation"][-3:], dtype=float)
        return _checked(name, resolution * units, offset * units)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{name} has multiscales metadata that cannot be read: {error!r}"
        ) from error


def _resolution_and_offset(
    name: str, attributes: Mapping[str, Any]
) -> tuple[tuple[float, ...], ...]:
    """Read resolution and offset in nm from the attributes of an array."""
    resolution = attributes.get("resolution", attributes.get("voxel_size"))
    if resolution is None:
        raise ValueError(f"{name} lacks the attribute resolution, the size of a voxel in nm")
    return _checked(name, resolution, attributes.get("offset", (0.0, 0.0, 0.0)))


def _checked(name: str, resolution: Any, offset: Any) -> tuple[tuple[float, ...], ...]:
    resolution, offset = np.asarray(resolution, float), np.asarray(offset, float)
    if resolution.shape != (3,) or offset.shape != (3,) or not (resolution > 0).all():
        raise ValueError(
            f"{name} must have a positive resolution and an offset of 3 numbers (z, y, x) in nm, "
            f"got {resolution.tolist()} and {offset.tolist()}"
        )
    return tuple(resolution.tolist()), tuple(offset.tolist())
