"""Neurites as tubes: grown by random walks, packed by pushing each other apart.

A neurite is a chain of beads, each with a centre and a radius in nm. It walks through the tissue in
any direction, swells and thins, branches now and then. Thick and thin neurites each fill their
share of the volume, so that there are few thick and very many thin ones. Beads of different
neurites that overlap repel each other, the thin one giving way, until the volume is filled almost
as densely as real neuropil; what is left between tubes goes to the nearest one (`nearest_tube`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data.synthetic.fields import Float, Resolution

# Radius classes in nm, and the share of the volume that each of them fills.
CALIBRES = (46.0, 72.0, 120.0, 220.0, 360.0)
SHARES = (0.2, 0.28, 0.3, 0.22)
MARGIN = 260.0  # nm by which tubes are grown beyond the volume, so that they come in from outside
SPACING = 0.7  # distance of neighbouring beads, in radii
TILE = 24  # pixels
GAP = 60.0  # nm over which a tube claims the empty space around it


@dataclass(frozen=True)
class Tubes:
    """Chains of beads.

    Attributes
    ----------
    centres : (N, 3) float array
        Bead centres in nm, (z, y, x).
    radii : (N,) float array
        Bead radii in nm.
    owner : (N,) int array
        Index of the neurite that a bead belongs to.
    starts : (N,) bool array
        True where a chain begins: bead i continues bead i - 1 unless `starts[i]`.
    """

    centres: NDArray[np.float64]
    radii: NDArray[np.float64]
    owner: NDArray[np.int64]
    starts: NDArray[np.bool_]


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def _walk(
    rng: np.random.Generator, radius: float, low: NDArray, high: NDArray
) -> list[tuple[NDArray, float, bool]]:
    """Grow one neurite from a random point both ways; return (centre, radius, starts) per bead."""
    centre, direction = rng.uniform(low, high), _unit(rng.standard_normal(3))
    beads = []
    tips = [(centre, direction, radius, 0), (centre, -direction, radius, 0)]
    while tips:
        centre, direction, radius, order = tips.pop()
        swelling, start = 0.0, True
        while np.all(centre > low - radius) and np.all(centre < high + radius):
            swelling = 0.88 * swelling + 0.16 * rng.standard_normal()
            here = float(np.clip(radius * np.exp(swelling), 32, 440))
            beads.append((centre, here, start))
            start = False
            direction = _unit(direction + 0.28 * rng.standard_normal(3))
            centre = centre + SPACING * here * direction
            if order < 2 and rng.random() < 0.025:
                away = _unit(direction + 0.9 * rng.standard_normal(3))
                thinner = max(36.0, radius * rng.uniform(0.4, 0.8))
                tips.append((centre, away, thinner, order + 1))
            if rng.random() < 0.004:  # a neurite may end
                break
    return beads


def grow(rng: np.random.Generator, extent: tuple[float, float, float]) -> Tubes:
    """Fill a box with neurites of all calibres.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the walks.
    extent : (float, float, float)
        Size of the box in nm, (z, y, x); its origin is the coordinate origin.

    Returns
    -------
    Tubes
        Overlapping tubes whose volumes add up to that of the box and its margin.
    """
    low, high = np.full(3, -MARGIN), np.asarray(extent) + MARGIN
    wanted = np.asarray(SHARES) * np.prod(high - low)
    filled = np.zeros(len(SHARES))
    chains = []
    while np.any(filled < wanted):
        calibre = int(np.argmin(filled / wanted))
        thin, thick = CALIBRES[calibre : calibre + 2]
        chains.append(_walk(rng, thin * (thick / thin) ** rng.random(), low, high))
        filled[calibre] += sum(np.pi * SPACING * radius**3 for _, radius, _ in chains[-1])
    beads = [bead for chain in chains for bead in chain]
    return Tubes(
        centres=np.array([centre for centre, _, _ in beads]),
        radii=np.array([radius for _, radius, _ in beads]),
        owner=np.repeat(np.arange(len(chains)), [len(chain) for chain in chains]),
        starts=np.array([start for _, _, start in beads]),
    )


def _overlaps(centres: NDArray, tubes: Tubes) -> tuple[NDArray, NDArray, NDArray]:
    """Find the bead pairs (i, j) of different neurites that overlap, and their distances."""
    # Beads of like radius share a tree: with one search radius for all, the thin ones would have
    # far too many neighbours.
    sizes = np.digitize(tubes.radii, CALIBRES[1:-1])
    groups = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    trees = [cKDTree(centres[group]) for group in groups]
    first, second, distance = [], [], []
    for a, (group_a, tree_a) in enumerate(zip(groups, trees, strict=True)):
        for group_b, tree_b in zip(groups[a:], trees[a:], strict=True):
            reach = tubes.radii[group_a].max() + tubes.radii[group_b].max()
            pairs = tree_a.sparse_distance_matrix(tree_b, reach, output_type="ndarray")
            i, j = group_a[pairs["i"]], group_b[pairs["j"]]
            touching = (pairs["v"] < tubes.radii[i] + tubes.radii[j]) & (
                tubes.owner[i] != tubes.owner[j]
            )
            if group_a is group_b:
                touching &= i < j
            first.append(i[touching])
            second.append(j[touching])
            distance.append(pairs["v"][touching])
    return np.concatenate(first), np.concatenate(second), np.concatenate(distance)


def push_apart(tubes: Tubes, iterations: int = 25) -> Tubes:
    """Let overlapping neurites push each other apart.

    Each step moves the two beads of an overlap away from each other, the thinner one further, and
    then straightens every chain a little, as a stiff tube would.

    Parameters
    ----------
    tubes : Tubes
        Overlapping tubes.
    iterations : int
        Number of steps.

    Returns
    -------
    Tubes
        The same beads at new centres.
    """
    centres, count = tubes.centres.copy(), len(tubes.radii)
    inner = ~tubes.starts & ~np.append(tubes.starts[1:], True)  # have a bead before and after
    middle = np.flatnonzero(inner)
    for _ in range(iterations):
        i, j, distance = _overlaps(centres, tubes)
        away = (centres[j] - centres[i]) / np.maximum(distance, 1e-6)[:, None]
        overlap = tubes.radii[i] + tubes.radii[j] - distance
        area_i, area_j = tubes.radii[i] ** 2, tubes.radii[j] ** 2
        part_i = area_j / (area_i + area_j)
        push = np.stack(
            [
                np.bincount(j, overlap * (1 - part_i) * away[:, axis], count)
                - np.bincount(i, overlap * part_i * away[:, axis], count)
                for axis in range(3)
            ],
            axis=1,
        ).astype(float)  # without any overlap bincount counts in integers
        pairs = np.bincount(i, minlength=count) + np.bincount(j, minlength=count)
        push /= np.maximum(pairs, 1)[:, None] ** 0.6
        length = np.linalg.norm(push, axis=1, keepdims=True)
        centres += push * np.minimum(1, 0.5 * tubes.radii[:, None] / np.maximum(length, 1e-6))
        centres[middle] += 0.25 * (
            (centres[middle - 1] + centres[middle + 1]) / 2 - centres[middle]
        )
    return Tubes(centres, tubes.radii, tubes.owner, tubes.starts)


def nearest_tube(
    tubes: Tubes, z: int, warp: Float, resolution: Resolution, gap: float = GAP
) -> tuple[NDArray[np.int32], Float]:
    """Find the bead whose surface is nearest to every pixel of a section.

    Parameters
    ----------
    tubes : Tubes
        The beads.
    z : int
        Section.
    warp : (3, height, width) float32 array
        Displacement of the section in nm, as `Warp.section` gives it.
    resolution : (float, float, float)
        Voxel size in nm.
    gap : float
        Distance from its surface in nm up to which a bead claims pixels.

    Returns
    -------
    bead : (height, width) int32 array
        Index of the nearest bead, -1 where none is within reach.
    distance : (height, width) float32 array
        Distance to its surface in nm, negative inside; infinite where none is within reach.
    """
    height, width = warp.shape[1:]
    places = warp.copy()
    places[0] += z * resolution[0]
    places[1] += (np.arange(height, dtype=np.float32) * resolution[1])[:, None]
    places[2] += np.arange(width, dtype=np.float32) * resolution[2]
    tops, lefts = np.arange(0, height, TILE), np.arange(0, width, TILE)
    low = np.minimum.reduceat(np.minimum.reduceat(places, tops, axis=1), lefts, axis=2)
    high = np.maximum.reduceat(np.maximum.reduceat(places, tops, axis=1), lefts, axis=2)
    bead = np.full((height, width), -1, np.int32)
    distance = np.full((height, width), np.inf, np.float32)
    for row, top in enumerate(tops):
        # Only a few beads can be nearest to a pixel of a tile: those nearer to its bounding box
        # than the bead that is nearest to the far side of the box.
        index, nearest, limit = _reach(tubes, low[:, row], high[:, row], gap)
        for column, left in enumerate(lefts):
            chosen = index[nearest[:, column] <= limit[column]]
            if not len(chosen):
                continue
            tile = np.s_[top : top + TILE, left : left + TILE]
            centres = tubes.centres[chosen].astype(np.float32)[:, :, None, None]
            surface = np.sqrt(((places[:, *tile] - centres) ** 2).sum(axis=1))
            surface -= tubes.radii[chosen].astype(np.float32)[:, None, None]
            best = surface.min(axis=0)
            claimed = best < gap
            bead[tile] = np.where(claimed, chosen[surface.argmin(axis=0)], -1)
            distance[tile] = np.where(claimed, best, np.inf)
    return bead, distance


def _reach(
    tubes: Tubes, low: Float, high: Float, gap: float
) -> tuple[NDArray[np.int64], NDArray, NDArray]:
    """Bound the distance from beads to a row of boxes.

    Returns the beads that come near enough to the row, the least distance (beads, boxes) of their
    surface to any point of each box, and the distance (boxes,) beyond which a bead is of no use.
    """
    below, above = low.min(axis=1) - gap, high.max(axis=1) + gap
    radii = tubes.radii[:, None]
    index = np.flatnonzero(
        np.all((tubes.centres + radii > below) & (tubes.centres - radii < above), axis=1)
    )
    centres, radii = tubes.centres[index][:, :, None], radii[index]
    outside = np.maximum(np.maximum(low - centres, centres - high), 0)
    across = np.maximum(centres - low, high - centres)
    nearest = np.sqrt((outside**2).sum(axis=1)) - radii
    farthest = np.sqrt((across**2).sum(axis=1)) - radii
    return index, nearest, np.minimum(farthest.min(axis=0, initial=np.inf), gap)


def unwarp(points: NDArray, warp: Float, resolution: Resolution) -> NDArray[np.float64]:
    """Find the pixels of a warped section at which points of the ideal tissue appear.

    Parameters
    ----------
    points : (N, 2) float array
        Points in nm, (y, x).
    warp : (3, height, width) float32 array
        Displacement of the section in nm.
    resolution : (float, float, float)
        Voxel size in nm.

    Returns
    -------
    (N, 2) float array
        Pixel coordinates (y, x), by fixed-point steps; points outside stay outside.
    """
    scale, last = np.asarray(resolution[1:]), np.asarray(warp.shape[1:]) - 1
    pixels = points / scale
    for _ in range(5):
        y, x = np.clip(np.rint(pixels), 0, last).astype(int).T
        pixels = (points - warp[1:, y, x].T) / scale
    return pixels
