"""What every step starts from: checked affinities, and their direct neighbours' edges.

Two voxels that share a face are direct neighbours. Fragments grow and meet along the edges between
direct neighbours; channels with longer offsets, which some networks predict too, are left out here
(only `connected_components` takes them all).
"""

from typing import NamedTuple

import numpy as np
import torch

from malis._checks import Array, Offsets, as_numpy, check_affinities, check_offsets
from malis.affinity import edge_slices


class Edges(NamedTuple):
    """The edges of one channel: two views of the volume, shifted against each other.

    ``volume[near]`` are the voxels ``v`` that own an edge, ``volume[far]`` the voxels
    ``v + offset``.
    """

    channel: int
    near: tuple[slice, ...]
    far: tuple[slice, ...]


def as_affinities(affinities: Array, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
    """Check (C, *spatial) affinities and their offsets; return float32 and int64 arrays.

    Affinities that are a float32 array already are returned themselves, and what lies in a file is
    read. See `malis._checks.check_affinities`: edges that leave the volume may hold anything.
    """
    offsets = check_offsets(offsets)
    if not isinstance(affinities, np.ndarray | torch.Tensor):
        affinities = affinities[...]
    return as_numpy(check_affinities(affinities, offsets, batched=False)), offsets


def all_edges(shape: tuple[int, ...], offsets: np.ndarray) -> list[Edges]:
    """Return the edges of every channel of a volume, long offsets included."""
    return [Edges(c, *edge_slices(shape, offset)) for c, offset in enumerate(offsets)]


def direct_edges(shape: tuple[int, ...], offsets: np.ndarray) -> list[Edges]:
    """Return the edges between voxels that share a face."""
    unit = np.abs(offsets).sum(axis=1) == 1
    return [edges for edges in all_edges(shape, offsets) if unit[edges.channel]]


def edges_of_all_axes(
    shape: tuple[int, ...], offsets: np.ndarray, per_section: bool
) -> list[Edges]:
    """Return the edges between voxels that share a face, sure that they join the volume.

    Those along the first axis are left out `per_section`. A ValueError if an axis longer than one
    voxel has no channel of unit steps, or there are no sections.
    """
    if per_section and len(shape) != 3:
        raise ValueError(f"per_section needs a volume (z, y, x), got shape {shape}")
    first = int(per_section)
    edges = [e for e in direct_edges(shape, offsets) if offsets[e.channel, first:].any()]
    stepped = offsets[[e.channel for e in edges]].any(axis=0)
    for axis, size in list(enumerate(shape))[first:]:
        if size > 1 and not stepped[axis]:
            raise ValueError(f"no offset is a unit step along axis {axis}: {offsets.tolist()}")
    return edges


def within_sections(offsets: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the channels whose edges lie within sections, and their (K, 2) offsets."""
    channels = np.flatnonzero(offsets[:, 0] == 0)
    return channels.tolist(), offsets[channels, 1:]


def average_affinities(
    affinities: Array, offsets: Offsets, *, per_section: bool = False
) -> np.ndarray:
    """Average, for every voxel, the affinities to its direct neighbours.

    Both ends of an edge take part, so that the average does not depend on the direction in which
    the offsets point.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1].
    offsets : (C, ndim) integers
    per_section : bool
        Leave out the neighbours in other sections (along the first axis).

    Returns
    -------
    (*spatial) float32 array
        1 for a voxel without neighbours.

    Raises
    ------
    ValueError, TypeError
        See `fragments`.
    """
    values, offsets = as_affinities(affinities, offsets)
    return mean_of_neighbours(values, edges_of_all_axes(values.shape[1:], offsets, per_section))


def mean_of_neighbours(values: np.ndarray, edges: list[Edges]) -> np.ndarray:
    """Average the (C, *spatial) affinities of the edges that end in each voxel; 1 without any."""
    total = np.zeros(values.shape[1:], dtype=np.float32)
    count = np.zeros(values.shape[1:], dtype=np.float32)
    for channel, near, far in edges:
        for end in (near, far):
            total[end] += values[channel][near]
            count[end] += 1
    total[count == 0] = 1
    return np.divide(total, np.maximum(count, 1), out=total)
