"""Synapses: a T-bar in one neurite, several partners across the cleft, and their annotations.

The synapses of the fly are polyadic: one presynaptic site faces several postsynaptic neurites. Each
is placed where a thick neurite borders on others. The cleft is labelled the way CREMI does it, in a
narrow band along the membrane over about three sections, and every partner gets a postsynaptic
site and a pair of its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from data.synthetic.fields import Resolution

DENSITY = 1.6e-9  # synapses per nm^3
CLEFT_RADIUS = 120.0  # nm along the membrane
CLEFT_HALF_WIDTH = 14.0  # nm across it
SPACING = 350.0  # nm between synapses
PRE_DEPTH = 38.0  # nm from the membrane to the presynaptic site, and to the head of the T-bar
BOUTON_DEPTH = 80.0  # nm that the presynaptic neurite has to reach inwards
POST_DEPTH = (14.0, 60.0)  # nm from the presynaptic membrane to the postsynaptic sites


@dataclass(frozen=True)
class Synapse:
    """One presynaptic site with its partners.

    Attributes
    ----------
    pre : (int, int, int)
        Voxel of the presynaptic site.
    posts : list of (int, int, int)
        Voxel of the postsynaptic site of each partner.
    cleft : (3, N) int array
        Voxels of the cleft.
    stained : (3, M) int array
        Voxels that the synapse darkens: T-bar and densities.
    darkness : (M,) float array
        By how many gray values.
    vesicles : (K, 3) int array
        Voxels at which synaptic vesicles lie, if they fall into the presynaptic neurite.
    """

    pre: tuple[int, int, int]
    posts: list[tuple[int, int, int]]
    cleft: NDArray[np.int64]
    stained: NDArray[np.int64]
    darkness: NDArray[np.float64]
    vesicles: NDArray[np.int64]


def shift(synapse: Synapse, sections: int) -> Synapse:
    """Move a synapse by a number of sections."""
    by = np.array([sections, 0, 0])
    return Synapse(
        tuple((np.array(synapse.pre) + by).tolist()),
        [tuple((np.array(post) + by).tolist()) for post in synapse.posts],
        synapse.cleft + by[:, None],
        synapse.stained + by[:, None],
        synapse.darkness,
        synapse.vesicles + by,
    )


def place_synapses(
    rng: np.random.Generator, owner: NDArray, thick: NDArray[np.bool_], resolution: Resolution
) -> list[Synapse]:
    """Find places for synapses in a labelled volume.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the places.
    owner : (sections, height, width) int array
        Neurite of every voxel.
    thick : (neurites,) bool array
        Neurites that may be presynaptic.
    resolution : (float, float, float)
        Voxel size in nm.

    Returns
    -------
    list of Synapse
        At least 350 nm apart; fewer than the density asks for where there is no room.
    """
    wanted = max(1, round(DENSITY * owner.size * float(np.prod(resolution))))
    found: list[Synapse] = []
    for _ in range(60 * wanted):
        z, y, x = (int(rng.integers(n)) for n in owner.shape)
        place = _boundary_pixel(owner[z], y, x, thick, int(160 / resolution[1]))
        if place is None:
            continue
        apart = (np.array([s.pre for s in found]).reshape(-1, 3) - (z, *place)) * resolution
        if np.any(np.linalg.norm(apart, axis=1) < SPACING):
            continue
        synapse = _build(rng, owner, (z, *place), resolution)
        if synapse is not None:
            found.append(synapse)
        if len(found) == wanted:
            break
    return found


def _boundary_pixel(
    section: NDArray, y: int, x: int, thick: NDArray[np.bool_], reach: int
) -> tuple[int, int] | None:
    """Walk from a pixel of a thick neurite to where it borders on another one."""
    if not thick[section[y, x]]:
        return None
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        for step in range(1, reach):
            there = y + step * dy, x + step * dx
            if not (0 <= there[0] < section.shape[0] and 0 <= there[1] < section.shape[1]):
                break
            if section[there] != section[y, x]:
                return there[0] - dy, there[1] - dx
    return None


@dataclass(frozen=True)
class _Window:
    """The surroundings of a voxel in its section, with coordinates in nm relative to it."""

    z: int
    top: int
    left: int
    area: tuple[slice, slice]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    pixel: float

    @property
    def away(self) -> NDArray[np.float64]:
        """Distance of every pixel to the voxel."""
        return np.hypot(self.rows, self.columns)

    def voxels(self, mask: NDArray[np.bool_], z: int) -> NDArray[np.int64]:
        """List the voxels (3, N) of a mask of the window in section z."""
        rows, columns = np.nonzero(mask)
        return np.stack([np.full(len(rows), z), rows + self.top, columns + self.left])

    def depth(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Distance in nm of every pixel of the mask to what is outside of it."""
        return distance_transform_edt(mask) * self.pixel


def _window(place: tuple[int, int, int], shape: tuple[int, ...], pixel: float) -> _Window:
    z, y, x = place
    half = int(1.6 * CLEFT_RADIUS / pixel)
    top, left = max(0, y - half), max(0, x - half)
    bottom, right = min(shape[1], y + half + 1), min(shape[2], x + half + 1)
    rows, columns = np.mgrid[top - y : bottom - y, left - x : right - x] * pixel
    return _Window(z, top, left, np.s_[top:bottom, left:right], rows, columns, pixel)


def _build(
    rng: np.random.Generator, owner: NDArray, place: tuple[int, int, int], resolution: Resolution
) -> Synapse | None:
    """Build the synapse at a boundary pixel; None if the place does not suit or has no partner."""
    window, pixel = _window(place, owner.shape, resolution[1]), resolution[1]
    presynaptic, section = owner[place], owner[place[0]][window.area]
    inside = section == presynaptic
    if window.depth(inside)[window.away < 160].max() < BOUTON_DEPTH:
        return None
    near = inside & (window.away < 60)
    inwards = np.array([window.rows[near].mean(), window.columns[near].mean()])
    if np.linalg.norm(inwards) < 4:  # as much of the neurite on one side as on the other
        return None
    inwards /= np.linalg.norm(inwards)
    head = np.rint(np.array(place[1:]) + inwards * PRE_DEPTH / pixel).astype(int)
    fits = np.all(head >= 0) and np.all(head < owner.shape[1:])
    if not fits or owner[place[0], head[0], head[1]] != presynaptic:
        return None
    posts = _postsynaptic_sites(window, section, inside)
    if not posts:
        return None
    partners = [owner[post] for post in posts]
    cleft, stained, darkness = [], [], []
    # The neighbouring sections show the rim of the synapse, if the two still touch there.
    for z, scale in ((window.z, 1.0), (window.z - 1, 0.75), (window.z + 1, 0.75)):
        if not 0 <= z < len(owner):
            continue
        mine = owner[z][window.area] == presynaptic
        theirs = np.isin(owner[z][window.area], partners)
        if mine.any() and theirs.any():
            band, stain = _cleft_and_stain(window, mine, theirs, inwards, scale)
            cleft.append(window.voxels(band, z))
            stained.append(window.voxels(stain > 1, z))
            darkness.append(stain[stain > 1])
    spread = (60 / resolution[0], 110 / pixel, 110 / pixel)
    cloud = rng.normal(
        (window.z, *(head + inwards * 60 / pixel)), spread, (rng.integers(15, 45), 3)
    )
    return Synapse(
        (window.z, int(head[0]), int(head[1])),
        posts,
        np.concatenate(cleft, axis=1),
        np.concatenate(stained, axis=1),
        np.concatenate(darkness),
        np.rint(cloud).astype(np.int64),
    )


def _postsynaptic_sites(
    window: _Window, section: NDArray, inside: NDArray[np.bool_]
) -> list[tuple[int, int, int]]:
    """Find a voxel in every neurite that faces the presynaptic one (`inside`)."""
    depth = window.depth(~inside)
    facing = ~inside & (depth < 1.5 * window.pixel) & (window.away < CLEFT_RADIUS)
    reachable = (depth >= POST_DEPTH[0]) & (depth <= POST_DEPTH[1])
    reachable &= window.away < 1.3 * CLEFT_RADIUS
    sites = []
    for partner in np.unique(section[facing]):
        room = reachable & (section == partner)
        if room.sum() < 12:
            continue
        # In the open rather than in a wedge between membranes.
        openness = np.minimum(window.depth(section == partner), 25)
        best = np.argmin(np.where(room, window.away - 2 * openness, np.inf))
        row, column = np.unravel_index(best, section.shape)
        sites.append((window.z, int(row) + window.top, int(column) + window.left))
    return sites


def _cleft_and_stain(
    window: _Window,
    mine: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    inwards: NDArray[np.float64],
    scale: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mark the cleft of one section, and draw densities and T-bar as darkness."""
    to_mine, to_theirs = window.depth(~mine), window.depth(~theirs)
    cleft = (mine & (to_theirs <= CLEFT_HALF_WIDTH)) | (theirs & (to_mine <= CLEFT_HALF_WIDTH))
    cleft &= window.away < scale * CLEFT_RADIUS

    stain = 60 * np.exp(-((to_mine / 22) ** 2)) * theirs
    stain += 34 * np.exp(-((to_theirs / 14) ** 2)) * mine
    stain *= np.exp(-((window.away / (scale * CLEFT_RADIUS)) ** 4))
    up = window.rows * inwards[0] + window.columns * inwards[1]
    aside = np.abs(window.rows * inwards[1] - window.columns * inwards[0])
    pedestal = (aside < 13) & (up > 0) & (up < PRE_DEPTH)
    platform = (aside < 48) & (np.abs(up - PRE_DEPTH) < 11)
    t_bar = 140.0 if scale == 1 else 45.0
    return cleft, stain + t_bar * ((pedestal | platform) & mine)
