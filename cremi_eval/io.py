"""CREMI files, layout 0.2, after cremi_python's `CremiFile`."""

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from ._hdf5 import PendingFile
from ._slabs import read, slabs
from .annotations import Annotations
from .datasets import check_filters, use_filters, volumes_in
from .grid import check_same_grid, crop_to
from .volume import Volume

__all__ = ["CremiFile", "MissingDatasetError", "check_same_grid", "crop_to", "read_raw_and_labels"]

FILE_FORMAT = "0.2"
RAW = "/volumes/raw"
NEURON_IDS = "/volumes/labels/neuron_ids"
NEURON_IDS_CONFIDENCE = "/volumes/labels/neuron_ids_confidence"
CLEFTS = "/volumes/labels/clefts"
ANNOTATIONS = "/annotations"
TEXT_OVERHEAD = 64  # bytes beside those of a text that HDF5 may need to store it


class MissingDatasetError(KeyError):
    """A file lacks a dataset or an attribute that was asked for."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message in quotes


class CremiFile:
    """A CREMI file, open for reading or writing.

    Use it in a ``with`` block, or call `close`. Volumes that are read keep their voxels in the
    file (``volume.data`` is an `h5py.Dataset`, as in cremi_python): take what you need, or
    ``volume.load()``, before the file is closed.

    Parameters
    ----------
    filename : str or Path
        The file.
    mode : {"r", "w", "a"}
        Read; write a new file; change a file, or write a new one if there is none.
    overwrite : bool
        With mode "w": whether a file that exists may be replaced.

    Raises
    ------
    FileNotFoundError
        If the file to read, or the folder to write into, does not exist.
    FileExistsError
        If a file to write exists already and `overwrite` is not set.
    OSError
        If the file is truncated, damaged, or no HDF5 file.
    ValueError
        If the mode is unknown.

    Notes
    -----
    Two things differ from cremi_python on purpose, because there an interrupted run or a full disk
    destroys an earlier result and leaves half a file. Mode "w" does not replace a file unless told
    to. And what is written goes to a file of a temporary name beside its place, with mode "a" to a
    copy of the file that is there; it is renamed when it is closed. An exception inside the
    ``with`` block removes it and leaves an earlier file as it was. So mode "a" needs room for a
    second copy, and what another program wrote to the file meanwhile is never overwritten: `close`
    then raises an error.

    A file that is never closed is finished when the object is collected or Python ends, unless a
    write to it failed; one of mode "w" that would replace an earlier file is then discarded,
    because the program may have failed half-way.
    """

    def __init__(self, filename: str | Path, mode: str, *, overwrite: bool = False) -> None:
        if mode not in ("r", "w", "a"):
            raise ValueError(f"mode must be 'r', 'w' or 'a', got {mode!r}")
        self.filename = Path(filename)
        self._pending: PendingFile | None = None
        if mode == "w" and self.filename.exists() and not overwrite:
            raise FileExistsError(f"{filename} exists already; overwrite=True would replace it")
        if mode == "w" or (mode == "a" and not self.filename.exists()):
            if not self.filename.parent.is_dir():
                raise FileNotFoundError(f"cannot write {filename}: its folder does not exist")
            self._pending = PendingFile(self.filename, overwrite)
        elif mode == "a":
            if not os.access(self.filename, os.W_OK):
                raise PermissionError(f"{filename} may not be written to: permission denied")
            with _open(self.filename):  # while it is open, nobody else writes to it
                self._pending = PendingFile(self.filename, overwrite, copy=True)
        if self._pending:
            weakref.finalize(self, self._pending.end)
        self.h5file = self._pending.h5file if self._pending else _open(self.filename)
        if self._pending:
            with self._writing():
                self.h5file.attrs["file_format"] = FILE_FORMAT

    def close(self) -> None:
        """Close the file; what was written appears under its name now.

        Raises
        ------
        OSError
            If it cannot be written, for instance because the disk is full, or another program
            created or changed the file meanwhile; a file that is there then stays as it is.
        """
        if self._pending:
            self._pending.publish()
        self.h5file.close()

    def reserve(self, size: int) -> None:
        """Take room from the disk before something is written through ``h5file`` itself.

        On a full disk this raises an error at once; the HDF5 library would do so when it has
        written most of it, and could then no longer close the file.

        Parameters
        ----------
        size : int
            Bytes that will be added to the file.

        Raises
        ------
        OSError
            If the disk has not enough room.
        ValueError
            If the file is open for reading only.
        """
        with self._writing():
            self._pending.reserve(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self._pending:
            self._pending.discard()
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Note an error that leaves a dataset half written."""
        if self._pending is None:
            raise ValueError(f"{self.filename} is open for reading only")
        try:
            yield
        except BaseException as error:
            self._pending.spoil(error)
            raise

    def has_raw(self) -> bool:
        """Tell whether the file holds a raw volume."""
        return RAW in self.h5file

    def has_neuron_ids(self) -> bool:
        """Tell whether the file holds neuron ids."""
        return NEURON_IDS in self.h5file

    def has_neuron_ids_confidence(self) -> bool:
        """Tell whether the file says how certain its neuron ids are."""
        return NEURON_IDS_CONFIDENCE in self.h5file

    def has_clefts(self) -> bool:
        """Tell whether the file holds synaptic clefts."""
        return CLEFTS in self.h5file

    def has_annotations(self) -> bool:
        """Tell whether the file holds annotations."""
        return ANNOTATIONS in self.h5file

    def has_segment_annotations(self) -> bool:
        """Tell whether the file holds annotations (cremi_python's second name for it)."""
        return self.has_annotations()

    def contents(self) -> str:
        """List the volumes of the file, with shape and type, for a message."""
        listed = [f"{name} {said}" for name, said in sorted(volumes_in(self.h5file).items())]
        return ", ".join(listed) or "no volume at all"

    def read_raw(self) -> Volume:
        """Read the raw volume, uint8."""
        return self.read_volume(RAW)

    def read_neuron_ids(self) -> Volume:
        """Read the neuron ids, uint64 (other tools also write other integers)."""
        return self._read_ids(NEURON_IDS)

    def read_clefts(self) -> Volume:
        """Read the synaptic clefts, uint64 with 2^64-1 where there is none."""
        return self._read_ids(CLEFTS)

    def read_neuron_ids_confidence(self) -> dict[int, list[int]]:
        """Read how certain the neuron ids are.

        Returns
        -------
        dict of int to list of int
            Neuron ids by confidence level; empty if the file does not say. (cremi_python names a
            class here that it never had.)
        """
        if not self.has_neuron_ids_confidence():
            return {}
        values = iter(self._dataset(NEURON_IDS_CONFIDENCE)[...].tolist())
        levels: dict[int, list[int]] = {}
        for level in values:  # level, number of ids, the ids; and again
            ids = [next(values) for _ in range(next(values))]
            levels.setdefault(level, []).extend(ids)
        return levels

    def read_volume(self, ds_name: str) -> Volume:
        """Read any volume of the file by the path of its dataset.

        Parameters
        ----------
        ds_name : str
            Path inside the file, e.g. "/volumes/raw".

        Returns
        -------
        Volume
            Its data are the open dataset; resolution and offset are float64 arrays.

        Raises
        ------
        MissingDatasetError
            If there is no such dataset, or it lacks its resolution.
        ValueError
            If it is compressed by a filter that is not installed, or its resolution or offset are
            not what they should be.
        """
        dataset = self._dataset(ds_name)
        check_filters(f"{self.filename}: dataset {ds_name}", dataset)
        name = f"{self.filename}: dataset {ds_name}"
        if "resolution" not in dataset.attrs:
            raise MissingDatasetError(f"{name} lacks the attribute resolution")
        resolution = _lengths(f"{name}: resolution", dataset.attrs["resolution"])
        if not (resolution > 0).all():
            raise ValueError(f"{name}: resolution must be positive, got {resolution.tolist()}")
        offset = _lengths(f"{name}: offset", dataset.attrs.get("offset", (0.0, 0.0, 0.0)))
        return Volume(dataset, resolution, offset, _text(dataset.attrs.get("comment", "")))

    def read_annotations(self) -> Annotations:
        """Read annotations, comments and partners.

        Returns
        -------
        Annotations
            Empty if the file has none.

        Raises
        ------
        MissingDatasetError
            If ids, types or locations are missing.
        ValueError
            If their lengths disagree, or a comment or partner names an id that does not exist.
        """
        group = self.h5file.get(ANNOTATIONS, {})
        if not {"ids", "types", "locations"} & set(group):
            return Annotations()
        annotations = Annotations(np.array(group.attrs.get("offset", (0.0, 0.0, 0.0)), float))
        ids = self._dataset(f"{ANNOTATIONS}/ids")[...].tolist()
        types = self._dataset(f"{ANNOTATIONS}/types")[...]
        locations = self._dataset(f"{ANNOTATIONS}/locations")[...]
        try:
            for number, kind, location in zip(ids, types, locations, strict=True):
                annotations.add_annotation(number, kind, location)
            if "comments" in group:
                targets = self._dataset(f"{ANNOTATIONS}/comments/target_ids")[...].tolist()
                comments = self._dataset(f"{ANNOTATIONS}/comments/comments")[...]
                for number, comment in zip(targets, comments, strict=True):
                    annotations.add_comment(number, comment)
            if "presynaptic_site/partners" in group:
                for pre, post in group["presynaptic_site/partners"][...].tolist():
                    annotations.set_pre_post_partners(pre, post)
        except MissingDatasetError:
            raise
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.filename}: {ANNOTATIONS} is inconsistent: {error}") from error
        return annotations

    def write_raw(self, raw: Volume) -> None:
        """Write a raw volume as uint8."""
        self.write_volume(raw, RAW, np.uint8)

    def write_neuron_ids(self, neuron_ids: Volume) -> None:
        """Write neuron ids as uint64."""
        self.write_volume(neuron_ids, NEURON_IDS, np.uint64)

    def write_clefts(self, clefts: Volume) -> None:
        """Write synaptic clefts as uint64; voxels outside of clefts are 2^64-1."""
        self.write_volume(clefts, CLEFTS, np.uint64)

    def write_volume(self, volume: Volume, ds_name: str, dtype: Any) -> None:
        """Write a volume, compressed, in place of one that is there.

        Parameters
        ----------
        volume : Volume
            What to write; data may be an array or a dataset, also of this file.
        ds_name : str
            Path inside the file, e.g. "/volumes/raw".
        dtype : dtype
            How to store it.

        Raises
        ------
        ValueError
            If the data are not three-dimensional or do not fit into the dtype unchanged.
            (cremi_python lets HDF5 clip them: -1 becomes 0, and a float 0.7 becomes 0.)
        """
        data, dtype = volume.data, np.dtype(dtype)
        if len(data.shape) != 3:
            raise ValueError(f"{ds_name} must have shape (z, y, x), got {tuple(data.shape)}")
        _check_fits(data, dtype, ds_name)
        with self._writing():
            dataset = self.h5file.get(ds_name)
            if dataset is None or dataset.shape != data.shape or dataset.dtype != dtype:
                if dataset is not None:
                    del self.h5file[ds_name]
                dataset = self.h5file.create_dataset(ds_name, data.shape, dtype, compression="gzip")
            for slab in slabs(data, dataset):
                values = read(data, slab).astype(dtype, copy=False)
                self._pending.reserve(values.nbytes)
                dataset[slab] = values
                dataset.flush()
            comment = None if volume.comment is None else str(volume.comment)
            _set_attribute(dataset, "resolution", np.array(volume.resolution, np.float64))
            _set_attribute(dataset, "offset", _nonzero(volume.offset))
            _set_attribute(dataset, "comment", comment)

    def write_annotations(self, annotations: Annotations) -> None:
        """Write annotations, comments and partners in place of those that are there.

        Without any annotation nothing is stored, as in cremi_python.

        Parameters
        ----------
        annotations : Annotations
            Ids have to fit into uint64.
        """
        ids = np.array(annotations.ids(), np.uint64)
        locations = np.array(annotations.locations(), np.float64)
        targets = np.array(list(annotations.comments), np.uint64)
        partners = np.array(annotations.pre_post_partners, np.uint64)
        texts = [*annotations.types(), *annotations.comments.values()]
        text_type = h5py.string_dtype()
        with self._writing():
            self._pending.reserve(
                sum(array.nbytes for array in (ids, locations, targets, partners))
                + sum(len(text.encode()) + TEXT_OVERHEAD for text in texts)
            )
            if ANNOTATIONS in self.h5file:
                for name in ("ids", "types", "locations", "comments", "presynaptic_site"):
                    self.h5file[ANNOTATIONS].pop(name, None)
                if not len(ids) and not len(self.h5file[ANNOTATIONS]):
                    del self.h5file[ANNOTATIONS]
            if not len(ids):
                return
            group = self.h5file.require_group(ANNOTATIONS)
            _set_attribute(group, "offset", _nonzero(annotations.offset))
            group.create_dataset("ids", data=ids)
            group.create_dataset(
                "types", data=annotations.types(), dtype=text_type, compression="gzip"
            )
            group.create_dataset("locations", data=locations)
            if len(targets):
                comments = list(annotations.comments.values())
                group.create_dataset("comments/target_ids", data=targets)
                group.create_dataset("comments/comments", data=comments, dtype=text_type)
            if len(partners):
                group.create_dataset("presynaptic_site/partners", data=partners)

    def _read_ids(self, name: str) -> Volume:
        volume = self.read_volume(name)
        if volume.data.dtype.kind not in "iu":
            raise TypeError(
                f"{self.filename}: dataset {name} must hold integers, got {volume.data.dtype}"
            )
        return volume

    def _dataset(self, name: str) -> h5py.Dataset:
        if not self.h5file:
            raise ValueError(f"{self.filename} is closed already")
        dataset = self.h5file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise MissingDatasetError(
                f"{self.filename} has no dataset {name}; it holds {self.contents()}"
            )
        return dataset


def read_raw_and_labels(filename: str | Path) -> tuple[Volume, Volume]:
    """Read the raw data and the neuron ids of a file, on one grid.

    Parameters
    ----------
    filename : str or Path
        A CREMI file. Padded samples hold more raw data than labels; they are cropped.

    Returns
    -------
    raw, labels : Volume
        Both in memory, of one shape and resolution.

    Raises
    ------
    ValueError
        If the two do not lie on one grid.
    MissingDatasetError, OSError
        If one is missing, or the file cannot be read.
    """
    with CremiFile(filename, "r") as file:
        raw, labels = file.read_raw(), file.read_neuron_ids()
        names = f"{filename}: {RAW}", NEURON_IDS
        return crop_to(raw, labels, names).load(), labels.load()


def _open(path: Path) -> h5py.File:
    """Open an existing file for reading and say in one line why that fails."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a CREMI file")
    use_filters()
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: permission denied") from error
    except OSError as error:
        if "truncated" in str(error):
            raise OSError(f"{path} is truncated: copy or download it again") from error
        if "Resource temporarily unavailable" in str(error):
            raise OSError(f"{path} is locked: another program is writing to it") from error
        if "signature not found" in str(error):
            raise OSError(f"{path} is not an HDF5 file") from error
        raise OSError(f"{path} cannot be opened as an HDF5 file: {error}") from error


def _check_fits(data: Any, dtype: np.dtype, name: str) -> None:
    if data.dtype == dtype:
        return
    limits = np.iinfo(dtype)
    for slab in (read(data, part) for part in slabs(data)):
        whole = data.dtype.kind in "uib" or (data.dtype.kind == "f" and np.all(slab == slab // 1))
        if slab.size and not (whole and _within(slab, limits)):
            raise ValueError(
                f"{name} is stored as {dtype}, but the {data.dtype} data do not fit: they must be "
                f"whole numbers from {limits.min} to {limits.max}"
            )


def _within(values: np.ndarray, limits: np.iinfo) -> bool:
    # Python compares its own integers and floats exactly, NumPy would round 2^64-1
    return values.min().item() >= limits.min and values.max().item() <= limits.max


def _lengths(what: str, value: Any) -> np.ndarray:
    """Return three lengths in nm as they stand in an attribute."""
    try:
        lengths = np.array(value, np.float64)
    except ValueError:
        lengths = np.zeros(0)
    if lengths.shape != (3,) or not np.isfinite(lengths).all():
        raise ValueError(f"{what} must be 3 numbers (z, y, x) in nm, got {value}")
    return lengths


def _nonzero(offset: Sequence[float]) -> np.ndarray | None:
    """Return the offset as it is stored: cremi_python leaves (0, 0, 0) out."""
    return np.array(offset, np.float64) if np.any(offset) else None


def _set_attribute(node: h5py.HLObject, name: str, value: Any) -> None:
    node.attrs.pop(name, None)
    if value is not None:
        node.attrs[name] = value


def _text(value: str | bytes) -> str:
    return value.decode("utf8") if isinstance(value, bytes) else str(value)
