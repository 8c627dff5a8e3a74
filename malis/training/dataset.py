"""From CREMI files to training patches.

Patch ``i`` of a dataset is a function of the volumes, the seed and ``i``, and of nothing else. So
any number of loader workers gives the same patches in the same order, and a training that was
interrupted goes on with the patch that it would have seen next.

The labels of a patch are relabelled by connected components. A crop may cut the path that holds a
neurite together, and then its two parts lie in the patch as two objects: nothing the network sees
joins them, and a loss that asks for pairs of voxels must not ask for that pair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cremi_eval import Volume
from cremi_eval.grid import crop_to
from cremi_eval.io import read_raw_and_labels
from malis.inference.grey_values import normalise
from malis.labels import grow_boundary, relabel_components
from malis.training.description import describe

MAX_REDRAWS = 1000
BACKGROUND = np.uint64(2**64 - 1)  # CREMI's id of what belongs to no object


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """Raw data and labels on one grid.

    Attributes
    ----------
    raw : (z, y, x) uint8 array
        Grey values.
    labels : (z, y, x) uint64 array
        Object ids, 0 = background.
    resolution : (3,) tuple of float
        Voxel size (z, y, x) in nm.
    name : str
        Where it comes from, for messages.
    """

    raw: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    resolution: tuple[float, ...]
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.raw.ndim != 3 or self.raw.shape != self.labels.shape:
            raise ValueError(
                f"{self.name}: raw and labels must have one shape (z, y, x), "
                f"got {self.raw.shape} and {self.labels.shape}"
            )
        if self.raw.dtype != np.uint8 or self.labels.dtype != np.uint64:
            raise TypeError(
                f"{self.name}: raw must be uint8 and labels uint64, "
                f"got {self.raw.dtype} and {self.labels.dtype}"
            )

    def sections(self, chosen: range) -> "LabelledVolume":
        """Return some of the sections as a volume of its own, without a copy."""
        if not len(chosen) or min(chosen) < 0 or max(chosen) >= len(self.raw):
            raise ValueError(f"{self.name} has {len(self.raw)} sections, asked for {chosen}")
        stop = chosen.stop if chosen.stop >= 0 else None  # -1 would be the last section
        part = slice(chosen.start, stop, chosen.step)
        return LabelledVolume(self.raw[part], self.labels[part], self.resolution, self.name)


def load_volume(path: str | Path) -> LabelledVolume:
    """Read raw data and neuron ids of a CREMI file into memory.

    Parameters
    ----------
    path : str or Path
        The file. A padded sample is cropped to its labels.

    Returns
    -------
    LabelledVolume

    Raises
    ------
    FileNotFoundError, OSError
        If there is no such file, or it is truncated or no HDF5 file.
    KeyError
        If it has no raw data or no neuron ids.
    ValueError, TypeError
        If the two are not on one grid, raw is not uint8, or an id is no integer or negative;
        -1 is taken for 2^64-1, no object.
    """
    return labelled_volume(*read_raw_and_labels(path), path)


def labelled_volume(raw: Volume, labels: Volume, path: str | Path) -> LabelledVolume:
    """Do what `load_volume` does with raw data and labels that are open already.

    `path` says where they come from.
    """
    raw = crop_to(raw, labels, (f"{path}: raw", "labels")).load()
    ids = labels.load().data
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{path}: neuron ids must be integers, got {ids.dtype}")
    if np.issubdtype(ids.dtype, np.signedinteger) and ids.size and ids.min() < -1:
        raise ValueError(f"{path}: neuron ids must be at least 0, or -1 for none, got {ids.min()}")
    resolution = tuple(float(r) for r in raw.resolution)
    ids = ids.astype(np.uint64)  # -1 becomes 2^64-1, which is CREMI's id for the same thing
    return LabelledVolume(raw.data, ids, resolution, Path(path).name)


@dataclass(frozen=True)
class SectionSplit:
    """Sections for training, for choosing parameters, and for the final score.

    Parameters
    ----------
    train, validation, test : range
        Section numbers; validation and test may be empty.

    Raises
    ------
    ValueError
        If a section is in two sets, or there is none to train on.
    """

    train: range
    validation: range
    test: range

    def __post_init__(self) -> None:
        if not len(self.train):
            raise ValueError("there is no section to train on")
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if shared := sorted(set(sets[a]) & set(sets[b])):
                raise ValueError(f"sections {shared} are in both {a} and {b}")


def split_sections(
    n_sections: int, *, validation: float = 0.15, test: float = 0.15
) -> SectionSplit:
    """Split a stack into consecutive runs of sections: training, then validation, then test.

    Neighbouring sections show the same neurites, so a random choice of sections would test on what
    was trained on. For other ranges, or a gap between the sets, make a `SectionSplit` directly.

    Parameters
    ----------
    n_sections : int
        Number of sections.
    validation, test : float
        Shares, rounded to whole sections, at least one section unless the share is 0.

    Returns
    -------
    SectionSplit

    Raises
    ------
    ValueError
        If a share is not in [0, 1) or no section is left to train on.
    """
    if not (0 <= validation < 1 and 0 <= test < 1):
        raise ValueError(f"shares must be in [0, 1), got {validation} and {test}")
    n_validation, n_test = (max(round(n_sections * s), int(s > 0)) for s in (validation, test))
    first, second = n_sections - n_validation - n_test, n_sections - n_test
    if first < 1:
        raise ValueError(
            f"{n_sections} sections are too few for {n_validation} of validation, {n_test} of test"
        )
    return SectionSplit(range(first), range(first, second), range(second, n_sections))


class PatchDataset(Dataset):
    """Random patches of sections (2D), blocks or slabs (3D), with labels for the centre of each.

    Parameters
    ----------
    volumes : LabelledVolume or sequence of them
        What to draw from, each in proportion to its size. Blocks never leave a volume, so
        ``volume.sections(split.train)`` keeps other sections out.
    patch_size : (2,) or (3,) sequence of int
        Size of the raw patch, (y, x) or (z, y, x).
    output_size : sequence of int, optional
        Size of the labels, the centre of the patch; by default all of it. For a network with
        valid convolutions ``network.output_size(patch_size)``.
    augment : Augmentation, optional
        How to vary the patches (see `malis.training.augmentation`).
    boundary : int or sequence of int
        Voxels of every object that become background, see `malis.labels`; for labels that touch.
    neighbours : int
        Sections on each side that a patch shows beyond its labels, for a 2D network that sees them
        (`malis.inference.neighbours`): of a patch (y, x) as further channels, of a slab (z, y, x)
        as further sections, from which `malis.training.train` takes the neighbours of each.
    seed : int
        Another seed, other patches.
    length : int
        Number of patches that ``len`` tells.

    Raises
    ------
    ValueError
        If a patch does not fit into a section or the volumes, the volumes differ in resolution or
        hold fewer than two objects, or the sizes or the neighbours make no sense.

    Notes
    -----
    The labels of a patch, with the margin that an elastic deformation needs, come from anywhere
    inside the volume. Where the raw patch around them reaches beyond the volume, the tissue is
    continued by its mirror image, as in `malis.inference`; otherwise nothing within the context
    of the border would ever be learned from. The same goes for neighbours beyond the first and the
    last section. A patch with fewer than two objects teaches nothing
    about boundaries and is drawn again. CREMI's id for what belongs to no object, 2^64-1, becomes
    background.

    Examples
    --------
    >>> ids = np.arange(64, dtype=np.uint64).repeat(64).reshape(1, 64, 64)
    >>> volume = LabelledVolume(np.zeros((1, 64, 64), np.uint8), ids, (40.0, 4.0, 4.0))
    >>> raw, labels = PatchDataset(volume, patch_size=(32, 32), output_size=(20, 20))[0]
    >>> raw.shape, raw.dtype, labels.shape, labels.dtype
    (torch.Size([1, 32, 32]), torch.float32, torch.Size([20, 20]), torch.int64)

    Slabs of four sections for a 2D network that sees two more on each side:

    >>> volume = LabelledVolume(np.zeros((9, 64, 64), np.uint8), ids.repeat(9, 0), (30.0, 6.0, 6.0))
    >>> raw, labels = PatchDataset(volume, (4, 32, 32), (4, 20, 20), neighbours=2)[0]
    >>> raw.shape, labels.shape
    (torch.Size([1, 8, 32, 32]), torch.Size([4, 20, 20]))
    """

    def __init__(
        self,
        volumes: LabelledVolume | Sequence[LabelledVolume],
        patch_size: Sequence[int],
        output_size: Sequence[int] | None = None,
        *,
        augment: Callable[..., tuple[Tensor, Tensor]] | None = None,
        boundary: int | Sequence[int] = 0,
        neighbours: int = 0,
        seed: int = 0,
        length: int = 100_000,
    ) -> None:
        volumes = [volumes] if isinstance(volumes, LabelledVolume) else list(volumes)
        self.patch_size = tuple(int(n) for n in patch_size)
        self.output_size = tuple(int(n) for n in output_size or patch_size)
        self.augment, self.seed, self.length = augment, seed, length
        self.boundary, self.neighbours = boundary, neighbours
        grow_boundary(np.zeros((1,) * len(self.patch_size), int), boundary)  # or complain now
        self.resolution = _check_volumes(volumes)[-len(self.patch_size) :]
        self.margin = augment.margin(self.resolution) if augment else (0,) * len(self.patch_size)
        _check_sizes(volumes, self.patch_size, self.output_size, self.margin)
        if neighbours < 0:
            raise ValueError(f"neighbours must be a number of sections, got {neighbours}")
        self.volumes = [describe(volume) for volume in volumes]  # by which a checkpoint knows them
        self._names = [f"{volume.name} {volume.raw.shape}" for volume in volumes]
        self._labels = [_training_labels(volume.labels) for volume in volumes]
        # From here on in 3D: a 2D patch lies in one section.
        flat = 3 - len(self.patch_size)
        sections, *others = (1,) * flat + self.patch_size
        self._seen = (sections + 2 * neighbours, *others)
        self._output, self._margin = (1,) * flat + self.output_size, (0,) * flat + self.margin
        sizes = zip(self._seen, self._output, strict=True)
        context = [((seen - output) // 2,) * 2 for seen, output in sizes]
        self._raw = [np.pad(volume.raw, context, mode="reflect") for volume in volumes]
        sizes = np.array([volume.raw.size for volume in volumes], float)
        self._share = sizes / sizes.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"patch {index} of {self.length}")
        rng = np.random.default_rng([self.seed, index])
        for _ in range(MAX_REDRAWS):
            raw, labels = self._draw(rng)
            if not _has_two_objects(labels.numpy()):
                continue
            if self.augment:
                raw, labels = self.augment(raw, labels, self.resolution, rng)
            components = relabel_components(grow_boundary(labels.numpy(), self.boundary))
            if components.max() >= 2:
                return raw, torch.from_numpy(components)
        raise ValueError(
            f"{MAX_REDRAWS} random patches of {self.output_size} voxels held fewer than two "
            f"objects (volumes: {', '.join(self._names)}): take larger patches or denser labels"
        )

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut a patch out of a random place, with the margin that its augmentation needs."""
        chosen = rng.choice(len(self._share), p=self._share)
        inner, outer = (
            [n + 2 * m for n, m in zip(size, self._margin, strict=True)]
            for size in (self._output, self._seen)
        )
        shape = self._labels[chosen].shape
        corner = [int(rng.integers(n - m + 1)) for n, m in zip(shape, inner, strict=True)]

        # Raw data are padded by context and neighbours, so both patches start at the same numbers.
        labels = self._labels[chosen][_box(corner, inner)]
        raw = normalise(self._raw[chosen][_box(corner, outer)])
        flat = 3 - len(self.patch_size)
        raw = torch.from_numpy(raw.reshape(-1, *outer[flat:]))
        return raw, torch.from_numpy(labels.reshape(inner[flat:]).copy())


def _training_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as int64, CREMI's id for "no object" as 0; without a copy where it can be."""
    if (labels == BACKGROUND).any():
        labels = np.where(labels == BACKGROUND, np.uint64(0), labels)
    return labels.view(np.int64)


def _box(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + n) for start, n in zip(corner, size, strict=True))


def _check_volumes(volumes: Sequence[LabelledVolume]) -> tuple[float, ...]:
    """Return the resolution that the volumes share."""
    if not volumes:
        raise ValueError("there is no volume to draw patches from")
    for volume in volumes:
        if not np.allclose(volume.resolution, volumes[0].resolution):
            raise ValueError(
                f"all volumes must have one resolution, got {volumes[0].resolution} nm "
                f"({volumes[0].name}) and {volume.resolution} nm ({volume.name})"
            )
        if not _has_two_objects(volume.labels):
            raise ValueError(f"{volume.name}: the labels hold fewer than two objects")
    return volumes[0].resolution


def _has_two_objects(labels: np.ndarray) -> bool:
    first = None
    for section in labels:  # one after the other: a large volume usually answers at once
        ids = section[(section != 0) & (section != BACKGROUND)]
        if ids.size:
            first = ids[0] if first is None else first
            if (ids != first).any():
                return True
    return False


def _check_sizes(
    volumes: Sequence[LabelledVolume],
    patch: tuple[int, ...],
    output: tuple[int, ...],
    margin: tuple[int, ...],
) -> None:
    if len(patch) not in (2, 3) or len(output) != len(patch) or min(output) < 1:
        raise ValueError(
            f"patch_size and output_size must both be (y, x) or (z, y, x), got {patch} and {output}"
        )
    if any(p < o or (p - o) % 2 for p, o in zip(patch, output, strict=True)):
        raise ValueError(
            f"output_size {output} is not the centre of patch_size {patch}: "
            "each axis must be smaller by an even number of voxels"
        )
    for volume in volumes:
        shape = volume.raw.shape[-len(patch) :]
        if any(p > n for p, n in zip(patch, shape, strict=True)):
            raise ValueError(
                f"{volume.name}: patches of {patch} voxels are larger than the volume of {shape}"
            )
        if any(o + 2 * m > n for o, m, n in zip(output, margin, shape, strict=True)):
            raise ValueError(
                f"{volume.name}: labels of {output} voxels with the augmentation's margin of "
                f"{margin} on each side are larger than the volume of {shape}"
            )
