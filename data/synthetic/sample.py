"""A whole synthetic sample: neurites, their ids, the picture, the synapses."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.measure import label as connected_components
from tqdm import tqdm

from cremi_eval import Annotations
from data.synthetic import organelles
from data.synthetic.drawing import Tissue, draw_section, random_stain
from data.synthetic.fields import Resolution, Shape, SmoothField, Warp
from data.synthetic.microscope import DAMAGE_RATE, KINDS, damage, expose
from data.synthetic.synapses import Synapse, place_synapses, shift
from data.synthetic.tubes import Tubes, grow, nearest_tube, push_apart

logger = logging.getLogger(__name__)

NO_CLEFT = np.iinfo(np.uint64).max  # as in CREMI
SMALLEST_PROFILE = 1500.0  # nm^2: smaller profiles in a section are all membrane
PRESYNAPTIC_RADIUS = 95.0  # nm
T_BAR_CLEARANCE = 130.0  # nm between a T-bar and the next mitochondrion


@dataclass(frozen=True)
class SyntheticSample:
    """A synthetic volume with everything a CREMI sample holds.

    Attributes
    ----------
    raw : (sections, height, width) uint8 array
        The picture.
    neuron_ids : (sections, height, width) uint64 array
        Ids from 1, every voxel labelled. One id is one connected piece: parts of a neurite that
        meet only outside of the volume have ids of their own.
    clefts : (sections, height, width) uint64 array
        Synaptic clefts from 1; 2^64-1 elsewhere.
    annotations : Annotations
        Presynaptic and postsynaptic sites in nm, and which of them are partners.
    resolution : (float, float, float)
        Voxel size in nm, (z, y, x).
    seed : int
        What it was made from.
    damaged : dict of int to str
        Damaged sections and what happened to them; their labels are as good as any.
    """

    raw: NDArray[np.uint8]
    neuron_ids: NDArray[np.uint64]
    clefts: NDArray[np.uint64]
    annotations: Annotations
    resolution: Resolution
    seed: int
    damaged: dict[int, str] = field(default_factory=dict)


def make_sample(
    shape: Shape = (24, 512, 512), seed: int = 0, resolution: Resolution = (40, 4, 4)
) -> SyntheticSample:
    """Make a volume that looks like serial-section electron microscopy of the fly brain.

    Parameters
    ----------
    shape : (int, int, int)
        Sections, height and width in voxels.
    seed : int
        The same seed and shape give the same sample.
    resolution : (float, float, float)
        Voxel size in nm, (z, y, x); y and x have to be equal.

    Returns
    -------
    SyntheticSample
        Raw data, neuron ids, clefts and annotations.

    Raises
    ------
    ValueError
        If shape or resolution are not three positive numbers, or pixels are not square.
    """
    shape, resolution = _check(shape, resolution)
    anatomy, deformation, content, partners, look, texture, camera = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(7)
    )
    # One more section below and above: they show where membranes lean.
    extended = (shape[0] + 2, shape[1], shape[2])
    extent = tuple(n * size for n, size in zip(extended, resolution, strict=True))
    neurites = push_apart(grow(anatomy, extent))
    warp = Warp(deformation, extended, resolution)
    owner = np.stack(list(_label_sections(neurites, warp, extended, resolution)))
    neuron_ids = _number(anatomy, owner[1:-1])

    radius = np.bincount(neurites.owner, neurites.radii) / np.bincount(neurites.owner)
    thick = radius > PRESYNAPTIC_RADIUS
    synapses = place_synapses(partners, owner[1:-1], thick, resolution)
    shifted = [shift(synapse, 1) for synapse in synapses]
    t_bars = np.array([warp.origin(synapse.pre) for synapse in shifted])
    mitochondria = organelles.mitochondria(content, neurites)
    mitochondria = organelles.keep_off(mitochondria, t_bars, T_BAR_CLEARANCE)
    tissue = Tissue(
        owner=owner,
        warp=warp,
        mitochondria=mitochondria,
        angles=organelles.chain_angles(content, mitochondria),
        filaments=organelles.filaments(content, neurites),
        vesicles=organelles.vesicles(content, neurites),
        synapses=shifted,
        stain=random_stain(look, len(radius), extended, resolution),
        resolution=resolution,
    )
    raw, damaged = _photograph(texture, camera, tissue, shape)
    clefts, annotations = _annotate(synapses, shape, resolution)
    logger.info("%d neurites, %d synapses, damaged: %s", neuron_ids.max(), len(synapses), damaged)
    return SyntheticSample(raw, neuron_ids, clefts, annotations, resolution, seed, damaged)


def _check(shape: Shape, resolution: Resolution) -> tuple[Shape, Resolution]:
    if len(shape) != 3 or any(n < 1 or n != int(n) for n in shape):
        raise ValueError(f"shape must be three positive whole numbers, got {tuple(shape)}")
    if len(resolution) != 3 or not all(0 < r < np.inf for r in resolution):
        raise ValueError(f"resolution must be three positive sizes in nm, got {tuple(resolution)}")
    if resolution[1] != resolution[2]:
        raise ValueError(f"pixels must be square, got a resolution of {tuple(resolution)} nm")
    return tuple(int(n) for n in shape), tuple(float(r) for r in resolution)


def _label_sections(
    neurites: Tubes, warp: Warp, shape: Shape, resolution: Resolution
) -> Iterator[NDArray[np.int32]]:
    """Label one section after the other with the index of the neurite."""
    smallest = SMALLEST_PROFILE / (resolution[1] * resolution[2])
    for z in range(shape[0]):
        bead, _ = nearest_tube(neurites, z, warp.section(z), resolution)
        owner = np.where(bead >= 0, neurites.owner[bead], -1).astype(np.int32)
        # Whatever no tube reached, and profiles too small to be seen, go to their neighbours.
        profiles = connected_components(owner, connectivity=1, background=-2)
        small = (np.bincount(profiles.ravel()) < smallest)[profiles] | (owner < 0)
        if small.all():  # a section too small to hold a profile
            small = owner != np.bincount(owner[owner >= 0], minlength=1).argmax()
        nearest = distance_transform_edt(small, return_distances=False, return_indices=True)
        yield owner[tuple(nearest)]


def _number(rng: np.random.Generator, owner: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Give every connected piece an id of its own, in random order."""
    pieces = connected_components(owner, connectivity=1, background=-1)
    ids = np.append(0, rng.permutation(pieces.max()) + 1).astype(np.uint64)
    return ids[pieces]


def _photograph(
    texture: np.random.Generator, camera: np.random.Generator, tissue: Tissue, shape: Shape
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Draw and expose all sections."""
    pixel = tissue.resolution[1]
    scale = tuple(max(700 / r, 1.0) for r in tissue.resolution)
    light = SmoothField(camera, shape, (3.0, *scale[1:]))
    raw, damaged = np.empty(shape, np.uint8), {}
    for z in tqdm(range(shape[0]), desc="synthetic sections", leave=False, disable=None):
        section = draw_section(texture, tissue, z + 1)
        picture = expose(camera, section, light.section(z), pixel)
        if camera.random() < DAMAGE_RATE:
            damaged[z] = str(camera.choice(KINDS))
            picture = damage(camera, picture, damaged[z], pixel)
        raw[z] = np.clip(np.rint(picture), 0, 255)
    return raw, damaged


def _annotate(
    synapses: list[Synapse], shape: Shape, resolution: Resolution
) -> tuple[NDArray[np.uint64], Annotations]:
    """Label the clefts, and list sites and partners."""
    clefts, annotations = np.full(shape, NO_CLEFT, np.uint64), Annotations()
    number = 0
    for cleft, synapse in enumerate(synapses, start=1):
        clefts[tuple(synapse.cleft)] = cleft
        number += 1
        pre = number
        annotations.add_annotation(pre, "presynaptic_site", _nm(synapse.pre, resolution))
        for post in synapse.posts:
            number += 1
            annotations.add_annotation(number, "postsynaptic_site", _nm(post, resolution))
            annotations.set_pre_post_partners(pre, number)
    return clefts, annotations


def _nm(voxel: tuple[int, int, int], resolution: Resolution) -> tuple[float, ...]:
    return tuple(v * r for v, r in zip(voxel, resolution, strict=True))
