"""What microscope and knife add to a section: light, focus, noise, now and then damage."""

import numpy as np
from scipy.ndimage import gaussian_filter

from data.synthetic.fields import Float, speckle

DAMAGE_RATE = 0.06  # of the sections
KINDS = ("fold", "crack", "faint", "dark", "dirt")


def expose(rng: np.random.Generator, section: Float, light: Float, pixel: float) -> Float:
    """Take a picture of a section: blur, uneven light, contrast of its own, noise.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of everything random.
    section : (height, width) float32 array
        Noiseless gray values.
    light : (height, width) float32 array
        Uneven illumination, mean 0 and variance 1.
    pixel : float
        Pixel size in nm.

    Returns
    -------
    (height, width) float32 array
        Gray values.
    """
    picture = gaussian_filter(section, rng.uniform(2.6, 4.4) / pixel)
    picture = 130 + (picture - 130) * rng.normal(1.0, 0.05) + rng.normal(0, 2.5) + 4 * light
    # Alignment resamples the images, so neighbouring pixels share some of the noise.
    noise = gaussian_filter(rng.standard_normal(section.shape, dtype=np.float32), 0.6)
    return picture + 6.3 * noise


def damage(rng: np.random.Generator, picture: Float, kind: str, pixel: float) -> Float:
    """Damage a picture, as a few sections of every series are.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of place and form.
    picture : (height, width) float32 array
        Gray values.
    kind : {"fold", "crack", "faint", "dark", "dirt"}
        A fold of the section, a crack, little contrast, too much stain, precipitate.
    pixel : float
        Pixel size in nm.

    Returns
    -------
    (height, width) float32 array
        Gray values.
    """
    if kind == "faint":
        return 140 + 0.4 * (gaussian_filter(picture, 6 / pixel) - 140) + rng.normal(0, 4)
    if kind == "dark":
        return 0.7 * picture - 8 + 14 * speckle(rng, picture.shape, 400 / pixel)
    if kind == "dirt":
        grains = np.clip(speckle(rng, picture.shape, 14 / pixel) - 1.9, 0, 1)
        clouds = np.clip(speckle(rng, picture.shape, 120 / pixel), 0, 1)
        return picture - 220 * grains * clouds
    if kind not in ("fold", "crack"):
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    # Both run as a wavy band through the section.
    angle, (height, width) = rng.uniform(0, np.pi), picture.shape
    rows, columns = np.indices(picture.shape, dtype=np.float32)
    middle = rng.uniform(0.25, 0.75, 2) * (height, width)
    across = (rows - middle[0]) * np.cos(angle) - (columns - middle[1]) * np.sin(angle)
    across = across * pixel + 45 * speckle(rng, picture.shape, 240 / pixel)
    thickness = 1 + 0.5 * speckle(rng, picture.shape, 160 / pixel)
    if kind == "fold":
        return picture - 75 * np.exp(-((across / (70 * np.maximum(thickness, 0.4))) ** 4))
    opening = 26 * np.maximum(thickness, 0)
    gap = 0.5 - 0.5 * np.tanh((np.abs(across) - opening) / 5)
    rim = np.exp(-(((np.abs(across) - opening) / 14) ** 2)) * (opening > 2)
    return picture * (1 - gap) + 205 * gap - 30 * rim * (1 - gap)
