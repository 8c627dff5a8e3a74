"""What swims in the cytoplasm: mitochondria, vesicles, microtubules, endoplasmic reticulum.

None of it is a boundary between neurites, and all of it looks a little like one: these are the
distractors that a network has to learn to ignore. Mitochondria are chains of beads inside thick
neurites, like the neurites themselves; the rest is drawn with the pen of `data.synthetic.ink`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data.synthetic.ink import Dots, join
from data.synthetic.tubes import SPACING, Tubes

VESICLE_RADIUS = 18.0  # nm
_CIRCLE = np.linspace(0, 2 * np.pi, 18, endpoint=False)
# A vesicle is an outline with a little gray inside, a dense-core vesicle is a dark disc.
_CLEAR = np.where(np.arange(18) % 3 == 0, 0.5, 1.0)
_DENSE = np.sqrt((np.arange(18) * 7 % 18 + 0.5) / 18)


def mitochondria(rng: np.random.Generator, neurites: Tubes) -> Tubes:
    """Place mitochondria into the thick stretches of the neurites.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of places and sizes.
    neurites : Tubes
        The neurites.

    Returns
    -------
    Tubes
        One chain per mitochondrion; `owner` is the neurite that it lies in.
    """
    centres, radii, owner, starts = [], [], [], []
    left = wait = size = (
        0.0  # nm still to fill; nm until the next one; radius as part of the neurite's
    )
    aside = np.zeros(3)
    for i, radius in enumerate(neurites.radii):
        if neurites.starts[i] or radius < 95:
            left = 0.0
            continue
        begins = left <= 0
        if begins:
            wait -= SPACING * radius
            if wait > 0:
                continue
            left, wait = rng.uniform(350, 1500), 150 + rng.exponential(900)
            size = rng.uniform(0.45, 0.75)
            aside = rng.standard_normal(3)
            aside *= 0.6 * (1 - size) / np.linalg.norm(aside)
        for t in (0.5, 1.0):  # a bead in between keeps the outline smooth
            place = t * neurites.centres[i] + (1 - t) * neurites.centres[i - 1]
            centres.append(place + aside * radius)
            radii.append(float(np.clip(size * radius, 55, 260)))
            owner.append(neurites.owner[i])
            starts.append(begins and t == 0.5)
        left -= SPACING * radius
    return Tubes(
        np.array(centres).reshape(-1, 3),
        np.array(radii, float),
        np.array(owner, np.int64),
        np.array(starts, bool),
    )


def keep_off(mitochondria: Tubes, sites: NDArray, clearance: float) -> Tubes:
    """Shrink or drop the beads of mitochondria that come too near to some sites.

    Parameters
    ----------
    mitochondria : Tubes
        The mitochondria.
    sites : (N, 3) float array
        Places in nm of the ideal tissue: T-bars, which a mitochondrion does not cover.
    clearance : float
        Distance in nm to keep from them.

    Returns
    -------
    Tubes
        What is left.
    """
    if not len(sites) or not len(mitochondria.radii):
        return mitochondria
    room = cKDTree(sites).query(mitochondria.centres)[0] - clearance
    radii = np.minimum(mitochondria.radii, room)
    kept = radii > 40
    # A chain whose first bead is dropped begins at the next one that is kept.
    chain = np.cumsum(mitochondria.starts)[kept]
    starts = np.append(True, chain[1:] != chain[:-1])[: len(chain)]
    return Tubes(mitochondria.centres[kept], radii[kept], mitochondria.owner[kept], starts)


def chain_angles(rng: np.random.Generator, chains: Tubes) -> NDArray[np.float32]:
    """Give every bead the direction in the plane along which its mitochondrion shows its cristae.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the direction where a mitochondrion crosses the sections.
    chains : Tubes
        Mitochondria.

    Returns
    -------
    (N,) float32 array
        Angle in radians from the x axis, the same for all beads of a chain.
    """
    chain = np.cumsum(chains.starts) - 1
    first = np.flatnonzero(chains.starts)
    last = np.append(first[1:], len(chain)) - 1
    z, y, x = (chains.centres[last] - chains.centres[first]).T
    lies = np.hypot(y, x) > 0.7 * np.abs(z)
    angle = np.where(lies, np.arctan2(y, x), rng.uniform(0, np.pi, len(first)))
    return angle[chain].astype(np.float32)


def microtubules(rng: np.random.Generator, neurites: Tubes) -> Dots:
    """Draw microtubules, which keep their place in the cross-section of a neurite.

    A neurite that crosses a section shows them as dots, one that runs along it as thin lines.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of their places.
    neurites : Tubes
        The neurites.

    Returns
    -------
    Dots
        A point every few nm along each of them.
    """
    places = rng.uniform(-0.6, 0.6, (neurites.owner.max() + 1, 3, 3))[neurites.owner]
    return _along(rng, neurites, places, shown=0.5, ink=0.8)


def reticulum(rng: np.random.Generator, neurites: Tubes) -> Dots:
    """Draw endoplasmic reticulum: pairs of walls that wander through a neurite for a while.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of their courses.
    neurites : Tubes
        The neurites.

    Returns
    -------
    Dots
        Points every few nm on both walls.
    """
    places = rng.uniform(-0.6, 0.6, (len(neurites.radii), 2, 3))
    course = _along(rng, neurites, places, shown=0.22, ink=1.3)
    middle = course.places + 28 * np.sin(course.places[:, ::-1] / 42)
    wall = np.where(rng.random(len(middle)) < 0.5, -9.0, 9.0)[:, None] * np.array([0, 1, -1])
    return Dots(middle + wall, course.owner, course.ink)


def _along(
    rng: np.random.Generator, neurites: Tubes, places: NDArray, shown: float, ink: float
) -> Dots:
    """Connect places in the cross-sections of consecutive beads, (beads, strands, 3) in radii."""
    links = np.flatnonzero(~neurites.starts)
    ends = neurites.centres[:, None] + places * neurites.radii[:, None, None]
    length = np.linalg.norm(ends[links] - ends[links - 1], axis=-1)
    link, strand = np.nonzero(rng.random(length.shape) < shown)
    points = np.ceil(length[link, strand] / 7).astype(int)
    bead, strand = np.repeat(links[link], points), np.repeat(strand, points)
    t = rng.random(len(bead))[:, None]
    return Dots(
        t * ends[bead, strand] + (1 - t) * ends[bead - 1, strand],
        neurites.owner[bead],
        np.full(len(bead), ink),
    )


@dataclass(frozen=True)
class Vesicles:
    """Vesicles, in nm of the ideal tissue or in voxels of the volume.

    Attributes
    ----------
    centres : (N, 3) float array
        Their centres, (z, y, x).
    owner : (N,) int array
        Neurite of each.
    dense : (N,) bool array
        True for a dense core.
    """

    centres: NDArray[np.float64]
    owner: NDArray[np.int64]
    dense: NDArray[np.bool_]


def vesicles(rng: np.random.Generator, neurites: Tubes) -> Vesicles:
    """Scatter vesicles: crowded in some thick neurites, sparse in the others.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the places.
    neurites : Tubes
        The neurites.

    Returns
    -------
    Vesicles
        Centres in nm.
    """
    count = neurites.owner.max() + 1
    crowd = np.where(rng.random(count) < 0.4, rng.uniform(0.3, 1.0, count), 0.1)
    volume = np.pi * SPACING * neurites.radii**3 * (neurites.radii > 85)
    bead = np.repeat(np.arange(len(volume)), rng.poisson(1.3e-6 * crowd[neurites.owner] * volume))
    direction = rng.standard_normal((len(bead), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    depth = 0.9 * neurites.radii[bead] * rng.random(len(bead)) ** (1 / 3)
    return Vesicles(
        neurites.centres[bead] + depth[:, None] * direction,
        neurites.owner[bead],
        rng.random(len(bead)) < 0.1,
    )


def outlines(
    rng: np.random.Generator,
    pixels: NDArray,
    owner: NDArray,
    dense: NDArray[np.bool_],
    pixel: float,
) -> Dots:
    """Turn the vesicles of one section into dots.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of sizes and darkness.
    pixels : (N, 2) float array
        Centres in pixels.
    owner, dense : (N,) arrays
        Neurite and kind of each vesicle.
    pixel : float
        Pixel size in nm.

    Returns
    -------
    Dots
        18 for each vesicle.
    """
    count = len(pixels)
    radius = VESICLE_RADIUS / pixel * rng.uniform(0.75, 1.3, count)
    distance = radius[:, None] * np.where(dense[:, None], _DENSE, _CLEAR)
    angle = _CIRCLE + rng.uniform(0, 2 * np.pi, (count, 1))
    circle = distance[..., None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    ink = rng.uniform(0.5, 1.1, count) * np.where(dense, 1.8, 1.0)
    return Dots(
        (pixels[:, None] + circle).reshape(-1, 2),
        np.repeat(owner, len(_CIRCLE)),
        np.repeat(ink, len(_CIRCLE)),
    )


def scraps(rng: np.random.Generator, owner: NDArray, pixel: float) -> Dots:
    """Scatter what has no name over a section: dark specks and short bent pieces of membrane.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of places and forms.
    owner : (height, width) int array
        Neurite of every pixel.
    pixel : float
        Pixel size in nm.

    Returns
    -------
    Dots
        Positions in pixels.
    """
    count = rng.poisson(owner.size * pixel**2 / 11000)
    steps = np.minimum(rng.geometric(0.13, count), 40)
    scrap = np.repeat(np.arange(count), steps)
    first = np.cumsum(steps) - steps
    turns = np.cumsum(rng.normal(0, 0.35, len(scrap)))
    heading = rng.uniform(0, 2 * np.pi, count)[scrap] + turns - turns[first][scrap]
    course = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0)
    course -= course[first][scrap]
    start = rng.uniform(0, 1, (count, 2)) * (np.array(owner.shape) - 1)
    y, x = np.rint(start).astype(int).T
    ink = 0.15 + 1.4 * rng.random(count) ** 2
    return Dots(start[scrap] + course * 5.0 / pixel, owner[y, x][scrap], ink[scrap])


def filaments(rng: np.random.Generator, neurites: Tubes) -> Dots:
    """Draw microtubules and reticulum of all neurites, positions in nm."""
    return join(microtubules(rng, neurites), reticulum(rng, neurites))
