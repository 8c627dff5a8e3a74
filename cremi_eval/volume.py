"""A volume on a grid in nanometres."""

import math
from collections.abc import Sequence
from typing import Any

from ._slabs import read


class Volume:
    """An array, the size of its voxels and the place of its corner.

    Parameters
    ----------
    data : (z, y, x) array or h5py.Dataset
        The voxels. Kept as it is, neither copied nor read.
    resolution : sequence of 3 floats
        Size of a voxel in nm, (z, y, x).
    offset : sequence of 3 floats
        Place of the first voxel in nm, (z, y, x).
    comment : str or None
        Free text.

    Notes
    -----
    ``volume[location]`` reads and writes the voxel nearest to a location in nm, counted from the
    volume's own corner (the offset is not subtracted). Halves round away from zero, as in the
    Python 2 that cremi_python was written for; Python 3's own ``round`` would take the even voxel.
    """

    def __init__(
        self,
        data: Any,
        resolution: Sequence[float] = (1.0, 1.0, 1.0),
        offset: Sequence[float] = (0.0, 0.0, 0.0),
        comment: str | None = "",
    ) -> None:
        self.data = data
        self.resolution = resolution
        self.offset = offset
        self.comment = comment

    def load(self) -> "Volume":
        """Read the voxels into memory.

        Returns
        -------
        Volume
            The same volume with a NumPy array as data, independent of any file; an array is not
            copied.

        Raises
        ------
        OSError
            If the data lie in a file and cannot be read from it.
        """
        return Volume(read(self.data), self.resolution, self.offset, self.comment)

    def __getitem__(self, location: Sequence[float]) -> Any:
        return self.data[self._voxel(location)]

    def __setitem__(self, location: Sequence[float], value: Any) -> None:
        self.data[self._voxel(location)] = value

    def __repr__(self) -> str:
        grid = f"resolution={tuple(map(float, self.resolution))}"
        place = f"offset={tuple(map(float, self.offset))}"
        kind = f"{'x'.join(map(str, self.data.shape))} {self.data.dtype}"
        return f"Volume({kind}, {grid}, {place}, comment={self.comment!r})"

    def _voxel(self, location: Sequence[float]) -> tuple[int, ...]:
        position = [float(x) / float(r) for x, r in zip(location, self.resolution, strict=True)]
        shape = self.data.shape
        if all(map(math.isfinite, position)):
            voxel = tuple(map(_round_half_away, position))
            if all(0 <= v < size for v, size in zip(voxel, shape, strict=True)):
                return voxel
        raise IndexError(
            f"location {tuple(map(float, location))} nm does not lie inside the volume of shape "
            f"{tuple(shape)} at {tuple(map(float, self.resolution))} nm"
        )


def _round_half_away(x: float) -> int:
    """Round to the nearest integer, halves away from zero."""
    whole = math.floor(abs(x))
    return int(math.copysign(whole + (abs(x) - whole >= 0.5), x))
