"""Smooth random fields, evaluated one section at a time.

Tissue bends, ripples and shifts from section to section; stain and light vary slowly. All of that
is one thing: white noise on a coarse grid of knots, interpolated by cubic B-splines. Because the
splines are separable, a section of the field is two small matrix products, and no array as large as
the volume is ever needed.
"""

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Resolution = tuple[float, float, float]
Float = NDArray[np.float32]

# The mean over all phases of the sum of squared cubic B-spline weights: how much variance of the
# knots survives per axis.
_SPLINE_VARIANCE = 0.4794


def _spline_weights(n: int, spacing: float, phase: float) -> Float:
    """Cubic B-spline weights of every knot at n voxels, shape (n, number of knots)."""
    position = np.arange(n) / spacing + phase
    knots = np.arange(int(np.ceil(n / spacing)) + 4) - 1
    distance = np.abs(position[:, None] - knots)
    near = (4 - 6 * distance**2 + 3 * distance**3) / 6
    far = (2 - np.minimum(distance, 2)) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


class SmoothField:
    """A random field of mean 0 and variance 1 that varies over a given scale.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the knots.
    shape : (int, int, int)
        Sections, rows and columns.
    scale : (float, float, float)
        Distance of the knots in voxels along (z, y, x): about the radius of one bump.
    """

    def __init__(
        self, rng: np.random.Generator, shape: Shape, scale: tuple[float, float, float]
    ) -> None:
        self._along_z, self._along_y, self._along_x = (
            _spline_weights(n, spacing, rng.random())
            for n, spacing in zip(shape, scale, strict=True)
        )
        knots = [w.shape[1] for w in (self._along_z, self._along_y, self._along_x)]
        self._knots = (rng.standard_normal(knots) / _SPLINE_VARIANCE**1.5).astype(np.float32)

    def section(self, z: int) -> Float:
        """Return the (height, width) float32 values of section z."""
        knots = np.tensordot(self._along_z[z], self._knots, axes=1)
        return self._along_y @ knots @ self._along_x.T


class Warp:
    """Where the matter at each voxel comes from: the deformation of the ideal tissue.

    Large bends and small ripples make the walls between neurites wavy and concave; a shift of whole
    sections is what alignment leaves over. Raw and labels move together, as in aligned series.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the deformation.
    shape : (int, int, int)
        Sections, rows and columns.
    resolution : (float, float, float)
        Voxel size in nm, (z, y, x).
    """

    # (amplitude along z, amplitude in the plane, scale along z, scale in the plane), all in nm
    BENDS = (35.0, 60.0, 400.0, 380.0)
    WAVES = (18.0, 22.0, 130.0, 130.0)
    RIPPLES = (0.0, 6.5, 60.0, 48.0)
    JITTER = 4.5

    def __init__(self, rng: np.random.Generator, shape: Shape, resolution: Resolution) -> None:
        self._shape = shape
        self._resolution = resolution
        self._layers = []
        for along, across, scale_z, scale_yx in (self.BENDS, self.WAVES, self.RIPPLES):
            scale = tuple(
                max(s / r, 1.0)
                for s, r in zip((scale_z, scale_yx, scale_yx), resolution, strict=True)
            )
            fields = [SmoothField(rng, shape, scale) for _ in range(3)]
            self._layers.append(list(zip((along, across, across), fields, strict=True)))
        # Most sections sit well, a few are off by several pixels.
        slips = rng.random(shape[0]) < 0.08
        self._jitter = rng.normal(0, self.JITTER, (shape[0], 2)) * np.where(slips, 2.5, 1)[:, None]

    def section(self, z: int) -> Float:
        """Return the displacement in nm of section z, shape (3, height, width), axes (z, y, x)."""
        shift = np.zeros((3, *self._shape[1:]), np.float32)
        for layer in self._layers:
            for axis, (amplitude, field) in enumerate(layer):
                if amplitude:
                    shift[axis] += amplitude * field.section(z)
        shift[1:] += self._jitter[z].astype(np.float32)[:, None, None]
        return shift

    def origin(self, voxel: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return the place (3,) in nm of the ideal tissue that a voxel (z, y, x) shows."""
        z, y, x = voxel
        return np.array(voxel) * self._resolution + self.section(z)[:, y, x]


def speckle(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Float:
    """Return a random (height, width) picture, mean 0, variance 1, smooth over sigma pixels."""
    # A cubic B-spline is nearly a Gaussian whose standard deviation is 0.577 of the knot distance.
    scale = max(sigma / 0.577, 1.0)
    return SmoothField(rng, (1, *shape), (1.0, scale, scale)).section(0)
