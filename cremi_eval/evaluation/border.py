"""The border mask: voxels near a boundary, which the challenge does not score."""

import math
from typing import Any

import numpy as np
from scipy import ndimage

from .._slabs import read, slabs
from ..io import CremiFile
from ..volume import Volume


def create_border_mask(
    input_data: Any, target: Any, max_dist: float, background_label: int, axis: int = 0
) -> None:
    """Copy labels and set those near a border to background, slice by slice.

    Parameters
    ----------
    input_data : (z, y, x) integer array or h5py.Dataset
        Labels; not changed.
    target : (z, y, x) integer array or h5py.Dataset
        Where the result is written. May be `input_data` itself.
    max_dist : float
        Greatest distance in pixels of a masked pixel from a border pixel; negative means 0.
    background_label : int
        The label to set; 2^64-1 is stored as -1 in a signed target.
    axis : int
        Axis across which the slices lie; distances are measured within a slice.

    Raises
    ------
    ValueError
        If the shapes differ, are not three-dimensional, or the label does not fit into the
        target. (cremi_python writes the slice in the input's dtype instead: with uint8 labels its
        border becomes label 255, and is scored.)

    See Also
    --------
    create_border_mask_2d : What counts as near.
    """
    if tuple(input_data.shape) != tuple(target.shape) or len(target.shape) != 3:
        raise ValueError(
            f"labels and target must have one shape (z, y, x), got {tuple(input_data.shape)} and "
            f"{tuple(target.shape)}"
        )
    background = _fitting(background_label, target.dtype)
    for index in range(target.shape[axis]):
        where = (slice(None),) * (axis % 3) + (index,)
        labels = input_data[where]
        border = create_border_mask_2d(labels, max_dist)
        target[where] = np.where(border, background, labels.astype(target.dtype))


def create_border_mask_2d(image: np.ndarray, max_dist: float) -> np.ndarray:
    """Mask the pixels of a section that are near a border.

    A pixel is a border pixel if one of its four neighbours has another label, so a boundary is two
    pixels wide. The distance is Euclidean, from pixel centre to pixel centre.

    A section of a single label has no border. What cremi_python then does depends on a detail of
    SciPy: distances are measured to a point outside the image, at row -1 and column 0, and a few
    pixels of the corner are masked. The challenge's numbers contain this, so it is done here, too,
    explicitly.

    Parameters
    ----------
    image : (y, x) integer array
        Labels.
    max_dist : float
        Greatest distance in pixels of a masked pixel from a border pixel; negative means 0.

    Returns
    -------
    (y, x) bool array
        True where a pixel is masked.
    """
    border = np.zeros(image.shape, bool)
    for differs, along in ((image[1:] != image[:-1], 0), (image[:, 1:] != image[:, :-1], 1)):
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[along], after[along] = slice(None, -1), slice(1, None)
        border[tuple(before)] |= differs
        border[tuple(after)] |= differs
    if border.any():
        return ndimage.distance_transform_edt(~border) <= max(max_dist, 0)
    row, column = np.ogrid[: image.shape[0], : image.shape[1]]
    return np.sqrt((row + 1) ** 2 + column**2) <= max(max_dist, 0)


def border_mask(labels: Volume, border_threshold: float) -> np.ndarray:
    """Mask the voxels of a volume that are near a border in their section.

    Parameters
    ----------
    labels : Volume
        Labels; pixels must be square.
    border_threshold : float
        Greatest distance in nm of a masked voxel from a border voxel.

    Returns
    -------
    (z, y, x) bool array
        True where a voxel is masked.

    Raises
    ------
    ValueError
        If the threshold is negative, the volume has no sections, or y and x resolution differ.
    """
    if not (math.isfinite(border_threshold) and border_threshold >= 0):
        raise ValueError(f"border_threshold must be at least 0 nm, got {border_threshold}")
    if len(labels.data.shape) != 3:
        raise ValueError(f"labels must have shape (z, y, x), got {tuple(labels.data.shape)}")
    _, y, x = map(float, labels.resolution)
    if y != x:
        raise ValueError(f"a border needs square pixels, got a resolution of {y} nm and {x} nm")
    mask = np.empty(labels.data.shape, bool)
    for slab in slabs(labels.data):
        for section, masked in zip(read(labels.data, slab), mask[slab], strict=True):
            masked[...] = create_border_mask_2d(section, float(border_threshold) / y)
    return mask


def create_and_write_masked_neuron_ids(
    in_file: CremiFile,
    out_file: CremiFile,
    max_dist: float,
    background_label: int,
    overwrite: bool = False,
) -> None:
    """Copy the neuron ids of one file into another, with their borders masked.

    Does nothing if there are none to copy, or `out_file` has some already and `overwrite` is not
    set.

    Parameters
    ----------
    in_file, out_file : CremiFile
        Where to read and where to write.
    max_dist, background_label
        As in `create_border_mask`.
    overwrite : bool
        Whether neuron ids of `out_file` may be replaced.
    """
    if not in_file.has_neuron_ids() or (out_file.has_neuron_ids() and not overwrite):
        return
    ids = in_file.read_neuron_ids()
    masked = np.empty(ids.data.shape, np.uint64)
    create_border_mask(ids.data, masked, max_dist, background_label)
    comment = f"{ids.comment} Border masked with max_dist={max_dist:f}".strip()
    out_file.write_neuron_ids(Volume(masked, ids.resolution, ids.offset, comment))


def _fitting(label: int, dtype: np.dtype) -> np.ndarray:
    """Return the label in a dtype; the largest unsigned integer is -1 in a signed one."""
    info = np.iinfo(dtype)
    label = int(label)
    if label == 2**64 - 1 and info.min < 0:
        label = -1
    if not info.min <= label <= info.max:
        raise ValueError(f"the background label {label} does not fit into {np.dtype(dtype)}")
    return np.asarray(label, dtype)
