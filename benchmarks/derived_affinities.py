"""Affinities that a middling network might predict, made from labels.

They have what makes segmentation hard: soft membranes, smooth noise that the channels share in
part, holes in membranes, dark bodies inside cells. Where the truth is known to the voxel and any
number of samples can be drawn, methods can be compared without the luck of one network.
"""

import numpy as np
from scipy import ndimage

from malis.affinity import affinities_from_labels, edge_slices

BLUR = 1.0  # of the membranes, standard deviation in voxels
HOLE_RADIUS = 2.0
TEXTURE = 2.0  # correlation length of the noise; a part of it is four times as long


def derive_affinities(
    labels: np.ndarray,
    offsets: tuple[tuple[int, ...], ...],
    rng: np.random.Generator,
    *,
    noise: float = 1.0,
    holes: float = 0.01,
    background: bool = False,
) -> np.ndarray:
    """Make noisy affinities from labels.

    Parameters
    ----------
    labels : (*spatial) integer array
        Object ids.
    offsets : (C, ndim) integers
        Unit steps.
    rng : numpy.random.Generator
    noise : float
        Standard deviation of the smooth noise, as a part of the logits' distance between inside
        (2.75) and membrane (-2.75).
    holes : float
        Which part of the boundary voxels is the centre of a hole.
    background : bool
        Whether label 0 is membrane and not an object.

    Returns
    -------
    (C, *spatial) float32 array
        In (0, 1).
    """
    objects = labels if background else labels.astype(np.uint64) + np.uint64(1)
    boundary = 1 - affinities_from_labels(objects, offsets).astype(np.float32)
    for channel, offset in enumerate(offsets):
        inside = np.zeros(labels.shape, dtype=bool)
        inside[edge_slices(labels.shape, offset)[0]] = True
        boundary[channel][~inside] = 0  # an edge that leaves the volume is no boundary
    anywhere = boundary.max(axis=0)
    membrane = _soften(anywhere)

    centres = np.zeros(labels.size, dtype=np.float32)
    candidates = np.flatnonzero(anywhere)
    centres[rng.choice(candidates, int(holes * len(candidates)), replace=False)] = 1
    hole = ndimage.gaussian_filter(centres.reshape(labels.shape), HOLE_RADIUS)
    hole = np.minimum(hole / max(0.4 * hole.max(), 1e-9), 1)

    bodies = np.clip(2 * (_texture(rng, labels.shape, 3 * TEXTURE) - 2), 0, 1)
    shared = 0.8 * _texture(rng, labels.shape, TEXTURE)
    shared += 0.6 * _texture(rng, labels.shape, 4 * TEXTURE)
    affinities = np.empty(boundary.shape, dtype=np.float32)
    for channel, own in enumerate(boundary):
        edge = np.clip(0.6 * _soften(own) + 0.5 * membrane, 0, 1) * (1 - hole)
        grain = 0.9 * shared + 0.5 * _texture(rng, labels.shape, 1.0)
        logits = 5.5 * (0.5 - edge) + noise * grain - 4 * bodies
        affinities[channel] = 1 / (1 + np.exp(-logits))
    return affinities


def _soften(boundary: np.ndarray) -> np.ndarray:
    return 2.2 * ndimage.gaussian_filter(boundary, BLUR)


def _texture(rng: np.random.Generator, shape: tuple[int, ...], length: float) -> np.ndarray:
    """Draw smooth noise with mean 0 and standard deviation 1."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, length, mode="wrap")
    return (noise - noise.mean()) / noise.std()
