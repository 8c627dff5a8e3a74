"""Volumes larger than memory: found in a file and opened without being read.

What stands in a file is an array, the size of its voxels and the place of its corner, see
`malis.scale.placement`. `open_volume` opens CREMI and other HDF5 files, OME-Zarr and plain Zarr.
Which dataset is meant is never guessed among several: it has a usual name, or it is named.
"""

import contextlib
import errno
import importlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from malis.inference.grey_values import GreyRange, choose_range, sample_voxels, to_bytes
from malis.scale.ome_zarr import create_ome_zarr, pyramid
from malis.scale.packages import scale_package
from malis.scale.placement import (
    Placement,
    chosen_place,
    order_of_axes,
    placement_of_array,
    placement_of_image,
)

logger = logging.getLogger(__name__)

__all__ = [
    "StoredArray",
    "create_ome_zarr",
    "in_trained_range",
    "offsets_in_volume",
    "open_volume",
    "pyramid",
]

USUAL_NAMES = {
    "raw": ("volumes/raw", "raw"),
    "labels": ("segmentation", "volumes/labels/neuron_ids", "labels"),
    "affinities": ("affinities", "volumes/affinities"),
}
DEFAULT_DATASETS = ("segmentation", "volumes/raw", "raw", "volumes/labels/neuron_ids", "affinities")
PROGRESS = "progress"  # a group with notes of `malis.scale`, no volumes
LISTED = 20  # volumes that a message lists


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
    resolution, offset : (3,) tuple of float
        Size of a voxel and place of the first one in nm, (z, y, x).
    attributes : dict
        Further attributes of the array.
    order : tuple of int
        The stored axes that are those of the shape; others have length 1.
    has_offset : bool
        Whether the file names the offset; otherwise it is 0.
    grey_range : (2,) tuple of float, optional
        Grey values that are read as 0 and 255, see `in_bytes`.
    """

    path: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype
    resolution: tuple[float, ...]
    offset: tuple[float, ...]
    attributes: dict[str, Any] = field(default_factory=dict, repr=False)
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

    def in_bytes(self, grey_range: GreyRange | None) -> "StoredArray":
        """Return the volume as uint8, see `malis.inference.grey_values.to_bytes`."""
        if grey_range is None:
            return self
        return replace(self, grey_range=grey_range, dtype=np.dtype(np.uint8))

    def __getitem__(self, index: Any) -> np.ndarray:
        index = self._full_index(index if isinstance(index, tuple) else (index,))
        array = self._opened()
        stored: list[Any] = [0] * array.ndim  # axes of length 1 are left out
        for axis, part in zip(self.order, index, strict=True):
            stored[axis] = part
        kept = [a for a, part in zip(self.order, index, strict=True) if not np.isscalar(part)]
        values = self._read(array, tuple(stored))
        values = values.transpose([sorted(kept).index(axis) for axis in kept])
        return values if self.grey_range is None else to_bytes(values, self.grey_range)

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
        has one of the `USUAL_NAMES` of its kind or, for labels, is the only one in the group
        ``labels`` of an OME-Zarr image; otherwise the first that exists of `DEFAULT_DATASETS`, or
        else the only volume that there is.
    kind : {"raw", "labels", "affinities"}, optional
        What is wanted: raw data are numbers on three axes, labels integers on three axes,
        affinities floats or uint8 on four.
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
    if "://" not in path and Path(path).is_file() and not zipfile.is_zipfile(path):
        volume = _open_hdf5(path, dataset, kind, resolution)
    else:
        try:
            volume = _open_zarr(path, dataset, kind, resolution)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has metadata that cannot be read: {error!r}") from error
    if kind is not None:
        _check_kind(volume, kind)
    return volume


def offsets_in_volume(offsets: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return offsets with three axes; a network that predicts sections has none along z."""
    return tuple((0,) * (3 - len(step)) + tuple(step) for step in offsets)


def in_trained_range(
    source: StoredArray, card: Mapping[str, Any], wanted: Sequence[float | str] | None = None
) -> StoredArray:
    """Return raw data with the black and white that a network was trained with.

    Parameters
    ----------
    source : StoredArray
        As it is if it has a range already.
    card : mapping
        Of the model; its ``grey_range``, if there is one.
    wanted : (2,) sequence of float or str, optional
        Another range; see `malis.inference.grey_values.choose_range`.

    Raises
    ------
    ValueError
        If the grey values do not use the range, or it makes no sense.
    """
    trained = card.get("grey_range")
    if source.grey_range or (source.dtype == np.uint8 and wanted is None and trained is None):
        return source
    return source.in_bytes(choose_range(sample_voxels(source), wanted, trained, name=source.name))


def _check_kind(volume: StoredArray, kind: str) -> None:
    axes = "(c, z, y, x)" if kind == "affinities" else "(z, y, x)"
    if volume.ndim != axes.count(",") + 1:
        raise ValueError(f"{volume.name} must have the axes {axes} of {kind}, got {volume.shape}")
    types, said = {"raw": ("uif", "numbers"), "labels": ("ui", "integers")}.get(
        kind, ("f", "floats or uint8")
    )
    if volume.dtype.kind not in types and (kind, volume.dtype) != ("affinities", np.uint8):
        raise ValueError(f"{volume.name} must hold {said}, as {kind} do, got {volume.dtype}")


# ---- which dataset ---------------------------------------------------------------------------


def _choose(
    path: str,
    dataset: str | None,
    kind: str | None,
    is_volume: Callable[[str], bool],
    volumes: Callable[[], dict[str, str]],
) -> str:
    """Return the dataset that is meant.

    Parameters
    ----------
    path, dataset, kind
        See `open_volume`.
    is_volume : callable
        Tells whether there is a volume of a name.
    volumes : callable
        Lists all, which may take long: for every name, what a message says of it.
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


# ---- HDF5 ------------------------------------------------------------------------------------


def _open_hdf5(
    path: str, dataset: str | None, kind: str | None, resolution: Sequence[float] | None
) -> StoredArray:
    with _hdf5_file(path) as file:
        volumes = _hdf5_volumes(file)
        chosen = _choose(
            path,
            dataset,
            kind,
            lambda name: isinstance(file.get(name), h5py.Dataset) and name in volumes,
            lambda: volumes,
        )
        node, name = file[chosen], f"{path}/{chosen}"
        _check_filters(name, node)
        found = _found(
            name, node.shape, resolution, lambda: placement_of_array(name, node.shape, node.attrs)
        )
        return _stored(path, chosen, node, found, resolution)


@contextlib.contextmanager
def _hdf5_file(path: str) -> Iterator[h5py.File]:
    """Open a file; its filters may be those of the package hdf5plugin."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")
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


def _hdf5_volumes(
    group: h5py.Group, prefix: str = "", above: tuple[Any, ...] = ()
) -> dict[str, str]:
    """List the volumes below a group, links followed; a group that holds itself is listed once."""
    volumes = {}
    for name in group:
        node = group.get(name)
        if node is None:
            link = group.get(name, getlink=True)
            target = f"{getattr(link, 'filename', '')}:{link.path}".lstrip(":")
            volumes[prefix + name] = f"(a link to {target}, which is not there)"
        elif isinstance(node, h5py.Dataset) and 3 <= node.ndim <= 5:
            volumes[prefix + name] = _said(node)
        elif isinstance(node, h5py.Group) and node.id not in above:
            volumes |= _hdf5_volumes(node, f"{prefix}{name}/", (*above, group.id))
    return volumes


def _said(array: Any) -> str:
    return f"{tuple(array.shape)} {array.dtype}"


def _check_filters(name: str, node: h5py.Dataset) -> None:
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


# ---- Zarr ------------------------------------------------------------------------------------


def _open_zarr(
    path: str, dataset: str | None, kind: str | None, resolution: Sequence[float] | None
) -> StoredArray:
    zarr = scale_package("zarr")
    root = _zarr_root(path)
    if isinstance(root, zarr.Array):
        if dataset:
            raise FileNotFoundError(f"{path} is a single volume and has no dataset {dataset!r}")
        parent = Path(path).absolute().parent
        if "://" not in path and _is_level(parent, Path(path).name):
            return _open_zarr(str(Path(path).parent), Path(path).name, kind, resolution)
        chosen, node = "", root
    else:
        chosen = _choose_in_zarr(path, root, dataset, kind)
        node = root[chosen] if chosen else root
    image, level = None, ""
    if isinstance(node, zarr.Group):
        image, group = _image(path, chosen, node), node
        level = _levels(f"{path}/{chosen}".rstrip("/"), image)[0]
        found = _level_there(f"{path}/{chosen}".rstrip("/"), group, image, level)
        node, chosen = group[found], f"{chosen}/{found}".strip("/")
    elif chosen:
        image, level = _image_of_level(path, root, chosen)
    name = f"{path}/{chosen}".rstrip("/")
    axes = getattr(node.metadata, "dimension_names", None)

    def placement() -> Placement:
        if image is not None:
            found = placement_of_image(name, node.shape, image, level)
            if found.resolution is not None:
                return found
        return placement_of_array(name, node.shape, dict(node.attrs), axes)

    return _stored(path, chosen, node, _found(name, node.shape, resolution, placement), resolution)


def _zarr_root(path: str) -> Any:
    zarr = scale_package("zarr")
    if "://" not in path and (Path(path) / "attributes.json").is_file():
        raise ValueError(
            f"{path} is N5, which the package zarr no longer reads; convert it to Zarr"
        )
    try:
        is_zip = "://" not in path and Path(path).is_file()
        return zarr.open(zarr.storage.ZipStore(path, mode="r") if is_zip else path, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is no Zarr volume: {_one_line(error)}") from error
    except Exception as error:  # metadata of any shape, stores of any kind
        raise ValueError(
            f"{path} is no Zarr volume that can be opened: {_one_line(error)}"
        ) from error


def _choose_in_zarr(path: str, root: Any, dataset: str | None, kind: str | None) -> str:
    """Return the path of an image or array in a group; empty for the group itself."""
    zarr = scale_package("zarr")

    def is_volume(name: str) -> bool:
        node = root.get(name)
        return isinstance(node, zarr.Array) or (node is not None and _is_image(node))

    def volumes() -> dict[str, str]:
        nodes = dict(root.members(max_depth=None))
        images = {name: node for name, node in nodes.items() if _is_image(node)}
        levels = {name: _finest(name, node) for name, node in images.items()}
        arrays = {
            name: node
            for name, node in nodes.items()
            if isinstance(node, zarr.Array)
            and not any(name.startswith(f"{image}/") for image in images)
            and (not _is_image(root) or "/" in name)
        }
        listed = {name: node for name, node in (levels | arrays).items() if node is not None}
        return {n: _said(a) for n, a in listed.items() if not n.startswith(f"{PROGRESS}/")}

    if dataset is None and _is_image(root):
        labels = {}
        if kind == "labels" and "image-label" not in _ome(root):
            labels = {n: said for n, said in volumes().items() if n.startswith("labels/")}
        if len(labels) < 2:
            return next(iter(labels), "")
        return _choose(path, None, None, lambda _: False, lambda: labels)
    return _choose(path, dataset, kind, is_volume, volumes)


def _ome(group: Any) -> dict[str, Any]:
    """Return the OME metadata of a group, of version 0.5 or earlier."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _is_image(node: Any) -> bool:
    return hasattr(node, "members") and "multiscales" in _ome(node)


def _image(path: str, chosen: str, group: Any) -> Any:
    """Return the first image that a group describes."""
    images = _ome(group)["multiscales"]
    if not isinstance(images, list) or not images:
        where = f"{path}/{chosen}".rstrip("/")
        raise ValueError(f"{where} has multiscales metadata that cannot be read: {images!r:.80}")
    return images[0]


def _levels(name: str, image: Any) -> list[str]:
    """Return the paths of an image's levels, the finest first."""
    try:
        levels = [str(each["path"]) for each in image["datasets"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} has multiscales metadata that cannot be read: {error!r}"
        ) from error
    if not levels:
        raise ValueError(f"{name} has multiscales metadata that cannot be read: no level")
    return levels


def _level_there(name: str, group: Any, image: Any, level: str) -> str:
    """Return a level's path, or of an image with one level that of its only array."""
    arrays = [path for path, _ in group.arrays()]
    if isinstance(group.get(level), scale_package("zarr").Array):
        return level
    if len(arrays) == len(_levels(name, image)) == 1:
        logger.warning("%s names the level %r, but holds %r, which is taken", name, level, *arrays)
        return arrays[0]
    raise ValueError(
        f"{name} names the level {level!r}, but holds {', '.join(sorted(arrays)) or 'no array'}"
    )


def _finest(name: str, group: Any) -> Any:
    """Return the finest array of an image, None if the image cannot be read."""
    try:
        return group.get(_levels(name, _image(name, "", group))[0])
    except ValueError:
        return None


def _image_of_level(path: str, root: Any, chosen: str) -> tuple[Any, str]:
    """Return the image of which an array is a level, and its path there; (None, "") if of none."""
    parts = chosen.split("/")
    for depth in reversed(range(len(parts))):
        group = root["/".join(parts[:depth])] if depth else root
        level = "/".join(parts[depth:])
        if _is_image(group):
            image = _image(path, "/".join(parts[:depth]), group)
            return (image, level) if level in _levels(path, image) else (None, "")
    return None, ""


def _is_level(folder: Path, name: str) -> bool:
    """Tell whether an array is a level of the image that its folder is."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        group = _zarr_root(str(folder))
        return _is_image(group) and name in _levels(str(folder), _image(str(folder), "", group))
    return False


# ---- both ------------------------------------------------------------------------------------


def _found(
    name: str,
    shape: tuple[int, ...],
    resolution: Sequence[float] | None,
    placement: Callable[[], Placement],
) -> Placement:
    """Read the placement; where the user names the resolution, metadata may make no sense."""
    try:
        return placement()
    except ValueError:
        if resolution is None:
            raise
        return Placement(order_of_axes(name, shape), None, None)


def _stored(
    path: str, dataset: str, node: Any, found: Placement, resolution: Sequence[float] | None
) -> StoredArray:
    name = f"{path}/{dataset}".rstrip("/")
    others = {k: v for k, v in node.attrs.items() if k not in ("resolution", "offset")}
    return StoredArray(
        path,
        dataset,
        tuple(node.shape[axis] for axis in found.order),
        node.dtype,
        *chosen_place(name, found, resolution),
        attributes=others,
        order=found.order,
        has_offset=found.offset is not None,
    )


def _open_array(path: str, dataset: str) -> Any:
    if "://" not in path and Path(path).is_file() and not zipfile.is_zipfile(path):
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")
        return h5py.File(path, "r")[dataset]
    root = _zarr_root(path)
    return root[dataset] if dataset else root


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
