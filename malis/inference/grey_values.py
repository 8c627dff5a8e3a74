"""Grey values of the microscope → numbers for a network, the same way in training and inference.

Networks see 8 bits, black as 0 and white as 255. Grey values of another type or range become 8 bits
by a range, LOW → 0 and HIGH → 255, that somebody names: data of 12 bits in uint16 or floats from 0
to 1 look like a black image otherwise.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

GreyRange = tuple[float, float]
ROUNDING = 1e-3
EVENLY = (0.8566749, 0.7338919, 0.6287067, 0.5385973)  # multiples, modulo 1, fill a cube evenly
TAILS = (0.5, 99.5)  # percentiles between which the grey values of an image count as used
LEAST_USE = 1 / 3  # share of a range that they must span


def normalise(raw: np.ndarray, grey_range: GreyRange | None = None) -> np.ndarray:
    """Map grey values onto [-1, 1], black to -1 and white to 1.

    The map is the same for every voxel of every volume. Standardising each patch or section by
    its own mean would make a prediction depend on the tile it was computed in.

    Parameters
    ----------
    raw : array of an unsigned integer or floating type
        Grey values; floating-point numbers count as normalised and are only converted.
    grey_range : (float, float), optional
        Grey values that are black and white, see `to_bytes`; then raw may be of any type of number.
        By default the limits of the integer type.

    Returns
    -------
    float32 array
        A new array of the same shape.

    Raises
    ------
    TypeError
        If raw has another type.
    ValueError
        If floating-point numbers are not normalised.
    """
    raw = np.asarray(raw) if grey_range is None else to_bytes(raw, grey_range)
    if np.issubdtype(raw.dtype, np.floating):
        if (np.isfinite(raw) & (np.abs(raw) > 1 + ROUNDING)).any():
            raise ValueError(
                "floating-point grey values must be normalised to [-1, 1], see `to_bytes`, got "
                f"{raw[np.isfinite(raw)].min():g} to {raw[np.isfinite(raw)].max():g}"
            )
        return raw.astype(np.float32)
    if not np.issubdtype(raw.dtype, np.unsignedinteger):
        raise TypeError(f"raw must hold unsigned integers or floats, got {raw.dtype}")
    middle = np.float32(np.iinfo(raw.dtype).max / 2)
    return raw.astype(np.float32) / middle - np.float32(1)


def to_bytes(raw: np.ndarray, grey_range: GreyRange) -> np.ndarray:
    """Map grey values to 8 bits: LOW and what is darker to 0, HIGH and what is brighter to 255.

    The uint8 values are rounded to the nearest. A ValueError if a value is no number, or LOW is not
    less than HIGH.
    """
    low, high = _checked_range(grey_range)
    raw = np.asarray(raw)
    if np.isnan(raw).any():
        raise ValueError("raw holds values that are no numbers (NaN)")
    share = (raw.astype(np.float64 if raw.dtype.itemsize > 2 else np.float32) - low) / (high - low)
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)


def sample_voxels(volume: Any, boxes: int = 32, side: int = 256) -> np.ndarray:
    """Read voxels from all over a volume, all of them if it is small.

    Of a (*channels, z, y, x) array, dataset or StoredArray, or a single section: boxes of side x
    side voxels of a section. The result is flat.
    """
    if math.prod(volume.shape) <= boxes * side * side:
        return np.ravel(volume[...])
    size = np.minimum((1, 1, side, side)[-len(volume.shape) :], volume.shape)
    spread = np.outer(np.arange(1, boxes + 1), EVENLY[: len(volume.shape)]) % 1
    corners = (spread * (np.array(volume.shape) - size + 1)).astype(int)
    pieces = [
        volume[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))]
        for corner in corners.tolist()
    ]
    return np.concatenate([piece.ravel() for piece in pieces])


def choose_range(
    values: np.ndarray,
    wanted: Sequence[float | str] | None = None,
    trained: Sequence[float | str] | None = None,
    *,
    name: str = "raw",
) -> GreyRange | None:
    """Decide which grey values of a volume are black and white.

    Parameters
    ----------
    values : array
        Grey values from all over the volume.
    wanted : (2,) sequence of float or str, optional
        LOW and HIGH as numbers, or as percentiles of the values, "0.5%" and "99.5%".
    trained : (2,) sequence of float or str, optional
        What the network was trained with; taken if nothing else is wanted, and if it fits.
    name : str
        What messages call the volume.

    Returns
    -------
    (float, float) or None
        The range for `to_bytes`; None where grey values need none: uint8, and floats that are
        normalised already, in [-1, 1] with some below 0. Unsigned integers of more bits that use
        their type's range are taken by that range, with a note in the log.

    Raises
    ------
    ValueError
        If no range is wanted and the values do not use the one that would be taken; or if the one
        that is wanted makes no sense.
    """
    if wanted is not None:
        return resolve_range(values, wanted)
    kind, finite = values.dtype.kind, values[np.isfinite(values)]
    if trained is not None:
        chosen = resolve_range(values, trained)
        if values.dtype == np.uint8 and (chosen == (0, 255) or chosen[1] > 255):
            return None  # it was converted before, as `data.convert` does
        said = f"the network was trained with black and white at {chosen[0]:g} and {chosen[1]:g}"
    elif values.dtype == np.uint8 or finite.size == 0 or finite.min() == finite.max():
        return None
    elif kind == "f":
        if -1 <= finite.min() < 0 and finite.max() <= 1:
            return None
        chosen, said = None, "floats count as normalised to [-1, 1]"
    elif kind == "u":
        chosen = (0.0, float(np.iinfo(values.dtype).max))
        said = f"{values.dtype} counts from {chosen[0]:g} (black) to {chosen[1]:g} (white)"
    else:
        chosen, said = None, f"{values.dtype} has no black and white of its own"
    low, high = np.percentile(finite, TAILS) if finite.size else (0.0, 0.0)
    used = min(high, chosen[1]) - max(low, chosen[0]) if chosen else 0
    if chosen is None or used < LEAST_USE * (chosen[1] - chosen[0]):
        raise ValueError(
            f"{name} holds {values.dtype} grey values from {finite.min():g} to {finite.max():g} "
            f"(99 % of them from {low:g} to {high:g}), but {said}; say which values are black and "
            "white (--range LOW HIGH)"
        )
    logger.warning("%s: black is taken to be %g and white %g", name, *chosen)
    return chosen


def resolve_range(values: np.ndarray, wanted: Sequence[float | str]) -> GreyRange:
    """Return a range in grey values; ends such as "99.5%" are percentiles of the values.

    A ValueError if it is no range.
    """
    try:
        low, high = (
            np.percentile(values, float(end.strip()[:-1]))
            if isinstance(end, str) and end.strip().endswith("%")
            else end
            for end in wanted
        )
        return _checked_range((float(low), float(high)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "a range of grey values must be LOW and HIGH, LOW < HIGH, as numbers or percentiles "
            f"(0.5% 99.5%), got {wanted!r}"
        ) from error


def _checked_range(ends: Sequence[float]) -> GreyRange:
    low, high = ends
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"LOW must be less than HIGH, got {low:g} and {high:g}")
    return low, high
