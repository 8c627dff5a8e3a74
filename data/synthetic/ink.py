"""A pen for what is too small to model: dots of ink, collected in space, drawn in sections."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from data.synthetic.fields import Float


@dataclass(frozen=True)
class Dots:
    """Dots of ink.

    Attributes
    ----------
    places : (N, 3) or (N, 2) float array
        Positions: (z, y, x) in nm of the ideal tissue, or (y, x) in pixels of a section.
    owner : (N,) int array
        Neurite that a dot lies in; where the section shows another one there, it is not drawn.
    ink : (N,) float array
        How much ink: 1 is one step of a thin line.
    """

    places: NDArray[np.float64]
    owner: NDArray[np.int64]
    ink: NDArray[np.float64]

    def take(self, chosen: NDArray) -> "Dots":
        """Return the chosen dots."""
        return Dots(self.places[chosen], self.owner[chosen], self.ink[chosen])


def join(*parts: Dots) -> Dots:
    """Put several sets of dots into one."""
    return Dots(
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.ink for part in parts]),
    )


def draw(dots: Dots, owner: NDArray, pen: float, darkest: float) -> Float:
    """Draw dots into a section.

    Parameters
    ----------
    dots : Dots
        Positions in pixels. Those that lie outside, or not in their owner, are left out.
    owner : (height, width) int array
        Neurite of every pixel.
    pen : float
        Width of the pen (standard deviation) in pixels.
    darkest : float
        Darkness that many dots on one place come close to; a single one gives about a third.

    Returns
    -------
    (height, width) float32 array
        Darkness.
    """
    nearest = np.rint(dots.places).astype(np.int64)
    inside = np.all((nearest >= 0) & (nearest < owner.shape), axis=1)
    inside[inside] = owner[tuple(nearest[inside].T)] == dots.owner[inside]
    dots = dots.take(inside)
    # Each dot goes to the four pixels around it, in proportion to how near they are.
    base = np.floor(dots.places).astype(np.int64)
    part = dots.places - base
    total = np.zeros(owner.size)
    for dy in (0, 1):
        for dx in (0, 1):
            y = np.minimum(base[:, 0] + dy, owner.shape[0] - 1)
            x = np.minimum(base[:, 1] + dx, owner.shape[1] - 1)
            y, x = np.maximum(y, 0), np.maximum(x, 0)
            weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1]) * dots.ink
            total += np.bincount(y * owner.shape[1] + x, weight, minlength=owner.size)
    picture = gaussian_filter(total.reshape(owner.shape).astype(np.float32), pen)
    return darkest * np.tanh(picture * (2 * np.pi * pen**2 / 3))
