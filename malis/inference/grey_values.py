"""Grey values of the microscope → numbers for a network, the same way in training and inference."""

import numpy as np


def normalise(raw: np.ndarray) -> np.ndarray:
    """Map unsigned integers onto [-1, 1], black to -1 and white to 1.

    The map is the same for every voxel of every volume. Standardising each patch or section by
    its own mean would make a prediction depend on the tile it was computed in.

    Parameters
    ----------
    raw : array of an unsigned integer or floating type
        Grey values; floating-point numbers count as normalised and are only converted.

    Returns
    -------
    float32 array
        A new array of the same shape.

    Raises
    ------
    TypeError
        If raw has another type.
    """
    raw = np.asarray(raw)
    if np.issubdtype(raw.dtype, np.floating):
        return raw.astype(np.float32)
    if not np.issubdtype(raw.dtype, np.unsignedinteger):
        raise TypeError(f"raw must hold unsigned integers or floats, got {raw.dtype}")
    middle = np.float32(np.iinfo(raw.dtype).max / 2)
    return raw.astype(np.float32) / middle - np.float32(1)
