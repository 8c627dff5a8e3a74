"""Bring two volumes onto one grid, or say why that is impossible."""

import functools
import logging

import numpy as np

from ._slabs import read
from .volume import Volume

logger = logging.getLogger(__name__)


def check_same_grid(
    first: Volume, second: Volume, names: tuple[str, str] = ("first", "second")
) -> None:
    """Raise an error unless two volumes have the same shape and voxel size.

    Offsets decide nothing: a submission that was written without its offset is still compared voxel
    by voxel, as the challenge does. Two offsets that differ are worth a warning, which is logged.

    Parameters
    ----------
    first, second : Volume
        The volumes; no voxel is read.
    names : pair of str
        What to call them in the message.

    Raises
    ------
    ValueError
        If the shapes or the resolutions disagree. cremi_python has assertions here, which
        ``python -O`` leaves out.
    """
    _check_shape_and_resolution(first, second, names)
    offsets = [tuple(map(float, volume.offset)) for volume in (first, second)]
    if names_offset(first) and names_offset(second) and not np.allclose(*offsets):
        _warn_once(
            f"{names[0]} lies at {offsets[0]} nm, but {names[1]} at {offsets[1]} nm: they are "
            "compared voxel by voxel all the same"
        )


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning that would otherwise come with every score of the same volumes."""
    logger.warning(message)


def names_offset(volume: Volume) -> bool:
    """Tell whether a volume says where it lies.

    An offset of (0, 0, 0) counts only where the file has it: cremi_python does not write it, and a
    `Volume` has it by default.
    """
    stored = getattr(volume.data, "has_offset", "offset" in getattr(volume.data, "attrs", ()))
    return bool(np.any(volume.offset)) or bool(stored)


def box_of(
    part: Volume, whole: Volume, names: tuple[str, str] = ("the part", "the volume")
) -> tuple[slice, ...]:
    """Find the voxels of a volume that another one covers, by the offsets of both.

    Parameters
    ----------
    part, whole : Volume
        The smaller volume and the one that it lies in; no voxel is read.
    names : pair of str
        What to call them in the message.

    Returns
    -------
    tuple of slices
        The part's place in the array of the whole.

    Raises
    ------
    ValueError
        If the resolutions disagree, the part reaches beyond the whole, or begins between two of its
        voxels.
    """
    resolution = np.asarray(whole.resolution, float)
    start = (np.asarray(part.offset, float) - np.asarray(whole.offset, float)) / resolution
    first = np.rint(start).astype(int)
    last = first + part.data.shape
    on_grid = np.allclose(whole.resolution, part.resolution) and np.abs(start - first).max() < 1e-3
    if not on_grid or (first < 0).any() or (last > whole.data.shape).any():
        raise ValueError(f"{names[1]} ({whole!r}) does not cover {names[0]} ({part!r})")
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def crop_to(raw: Volume, labels: Volume, names: tuple[str, str] = ("raw", "labels")) -> Volume:
    """Cut the part out of a padded raw volume that labels cover.

    The padded CREMI samples hold more raw data than labels; the offset of the labels says where
    in the raw data they begin.

    Parameters
    ----------
    raw : Volume
        The larger volume.
    labels : Volume
        The volume whose grid is wanted.
    names : pair of str
        What to call them in the message.

    Returns
    -------
    Volume
        The raw volume itself where the shapes agree already, else a cropped one in memory. If the
        shapes agree and the offsets do not, a warning is logged: they are ignored.

    Raises
    ------
    ValueError
        If the resolutions disagree, the labels reach beyond the raw volume, or begin between
        two of its voxels; or if both begin in one place but differ in shape: padding surrounds.
    """
    same_shape = tuple(raw.data.shape) == tuple(labels.data.shape)
    if same_shape or np.allclose(raw.offset, labels.offset):
        _check_shape_and_resolution(raw, labels, names)
        if not np.allclose(raw.offset, labels.offset):
            offsets = tuple(map(float, raw.offset)), tuple(map(float, labels.offset))
            logger.warning(
                "%s and %s have one shape, but the offsets %s and %s: they are taken as aligned",
                *names,
                *offsets,
            )
        return raw
    box = box_of(labels, raw, names[::-1])
    return Volume(read(raw.data, box), raw.resolution, labels.offset, raw.comment)


def _check_shape_and_resolution(first: Volume, second: Volume, names: tuple[str, str]) -> None:
    a, b = names
    shapes = tuple(first.data.shape), tuple(second.data.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(f"{a} has shape {shapes[0]}, but {b} has shape {shapes[1]}")
    resolutions = tuple(map(float, first.resolution)), tuple(map(float, second.resolution))
    if len(resolutions[0]) != len(resolutions[1]) or not np.allclose(*resolutions, rtol=1e-6):
        raise ValueError(
            f"{a} has resolution {resolutions[0]} nm, but {b} has resolution {resolutions[1]} nm"
        )
