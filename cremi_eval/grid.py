"""Bring two volumes onto one grid, or say why they are not."""

import logging

import numpy as np

from ._slabs import read
from .volume import Volume

logger = logging.getLogger(__name__)


def check_same_grid(
    first: Volume, second: Volume, names: tuple[str, str] = ("first", "second")
) -> None:
    """Raise an error unless two volumes have the same shape and voxel size.

    Offsets are not compared: a submission that was written without its offset is still compared
    voxel by voxel, as the challenge does.

    Parameters
    ----------
    first, second : Volume
        The volumes; only shapes and resolutions are looked at.
    names : pair of str
        What to call them in the message.

    Raises
    ------
    ValueError
        If the shapes or the resolutions disagree. cremi_python has assertions here, which
        ``python -O`` leaves out.
    """
    a, b = names
    shapes = tuple(first.data.shape), tuple(second.data.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(f"{a} has shape {shapes[0]}, but {b} has shape {shapes[1]}")
    resolutions = tuple(map(float, first.resolution)), tuple(map(float, second.resolution))
    if len(resolutions[0]) != len(resolutions[1]) or not np.allclose(*resolutions, rtol=1e-6):
        raise ValueError(
            f"{a} has resolution {resolutions[0]} nm, but {b} has resolution {resolutions[1]} nm"
        )


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
        check_same_grid(raw, labels, names)
        if not np.allclose(raw.offset, labels.offset):
            offsets = tuple(map(float, raw.offset)), tuple(map(float, labels.offset))
            logger.warning(
                "%s and %s have one shape, but the offsets %s and %s: they are taken as aligned",
                *names,
                *offsets,
            )
        return raw
    resolution = np.asarray(raw.resolution, float)
    start = (np.asarray(labels.offset, float) - np.asarray(raw.offset, float)) / resolution
    first = np.rint(start).astype(int)
    last = first + labels.data.shape
    on_grid = np.allclose(raw.resolution, labels.resolution) and np.abs(start - first).max() < 1e-3
    if not on_grid or (first < 0).any() or (last > raw.data.shape).any():
        raise ValueError(f"{names[0]} ({raw!r}) does not cover {names[1]} ({labels!r})")
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    return Volume(read(raw.data, box), raw.resolution, labels.offset, raw.comment)
