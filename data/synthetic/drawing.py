"""From anatomy to gray values: what a section of this tissue shows before the camera adds to it.

Gray values are those of CREMI: cytoplasm around 155, membranes around 80. Stain is added up as
darkness, and saturates. A membrane that stands upright in the section is a thin dark line; one that
leans is projected through the thickness of the section and becomes a wide, pale band. How much it
leans is read off the labels: by how far the boundary moves from this section to the next ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from data.synthetic import organelles
from data.synthetic.fields import Float, Resolution, Shape, SmoothField, Warp, speckle
from data.synthetic.ink import Dots, draw
from data.synthetic.synapses import Synapse
from data.synthetic.tubes import Tubes, nearest_tube, unwarp

LIGHTEST = 163.0
DYNAMIC_RANGE = 110.0
MEMBRANE_WIDTH = 19.0  # nm: two membranes and what lies between them
MEMBRANE_DARKNESS = 150.0
FAR = 1e4  # nm: further than any distance that matters


@dataclass(frozen=True)
class Stain:
    """How the tissue takes the stain.

    Attributes
    ----------
    cytoplasm, grain : (neurites,) arrays
        Darkness and coarseness of the cytoplasm of each neurite.
    strength, width : SmoothField
        Where membranes are faint or dark, thin or thick.
    """

    cytoplasm: NDArray[np.float32]
    grain: NDArray[np.float32]
    strength: SmoothField
    width: SmoothField


def random_stain(
    rng: np.random.Generator, neurites: int, shape: Shape, resolution: Resolution
) -> Stain:
    """Draw a stain: most neurites are alike, a few dark; most membranes clear, some faint."""
    dark = np.where(rng.random(neurites) < 0.1, rng.uniform(6, 16, neurites), 0)
    cytoplasm = np.abs(rng.normal(0, 4, neurites)) + dark
    grain = rng.uniform(0.6, 1.5, neurites)
    return Stain(
        cytoplasm.astype(np.float32),
        grain.astype(np.float32),
        SmoothField(rng, shape, _voxels((160, 120, 120), resolution)),
        SmoothField(rng, shape, _voxels((120, 200, 200), resolution)),
    )


@dataclass(frozen=True)
class Tissue:
    """All that is drawn.

    Attributes
    ----------
    owner : (sections + 2, height, width) int array
        Neurite of every voxel, with one more section below and above.
    warp : Warp
        Deformation, for the same sections.
    mitochondria : Tubes
        Mitochondria in nm of the ideal tissue.
    angles : (N,) array
        Direction of the cristae at every bead.
    filaments : Dots
        Microtubules and reticulum in nm.
    vesicles : Vesicles
        Their centres in nm.
    synapses : list of Synapse
        In voxels of `owner`.
    stain : Stain
        How they take the stain.
    resolution : (float, float, float)
        Voxel size in nm.
    """

    owner: NDArray[np.int32]
    warp: Warp
    mitochondria: Tubes
    angles: NDArray[np.float32]
    filaments: Dots
    vesicles: organelles.Vesicles
    synapses: list[Synapse]
    stain: Stain
    resolution: Resolution


def draw_section(rng: np.random.Generator, tissue: Tissue, z: int) -> Float:
    """Draw one section.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of texture.
    tissue : Tissue
        What to draw.
    z : int
        Section of `tissue.owner`, neither the first nor the last.

    Returns
    -------
    (height, width) float32 array
        Gray values of a noiseless, perfectly focused picture.
    """
    owner, pixel = tissue.owner[z], tissue.resolution[1]
    warp = tissue.warp.section(z)
    below, to_boundary, above = (boundary_distance(tissue.owner[z + i], pixel) for i in (-1, 0, 1))

    texture = tissue.stain.grain[owner] * cytoplasm_texture(rng, owner.shape, pixel)
    darkness = tissue.stain.cytoplasm[owner] + texture
    mitochondrion, stained = draw_mitochondria(rng, tissue, z, warp, to_boundary)
    darkness = darkness * (1 - mitochondrion) + stained + 0.8 * texture * mitochondrion
    darkness += draw_small_things(rng, tissue, z, warp) * (1 - mitochondrion)

    # Where a neurite ends between two sections, its membrane lies flat and covers an area.
    flat = (owner != tissue.owner[z - 1]).astype(np.float32) + (owner != tissue.owner[z + 1])
    darkness += 7.5 * gaussian_filter(flat, 10 / pixel)
    membrane = membranes(to_boundary, (below + above) / 2, tissue.stain, z, pixel)
    darkness = np.maximum(darkness, -15) * (1 - membrane / 160) + membrane
    darkness += draw_synapses(tissue.synapses, z, owner.shape, pixel)
    return LIGHTEST - DYNAMIC_RANGE * np.tanh(darkness / DYNAMIC_RANGE)


def boundary_distance(owner: NDArray, pixel: float) -> Float:
    """Distance in nm of every pixel centre to the nearest boundary between neurites."""
    edge = np.zeros(owner.shape, bool)
    rows, columns = owner[1:] != owner[:-1], owner[:, 1:] != owner[:, :-1]
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    if not edge.any():
        return np.full(owner.shape, FAR, np.float32)
    return ((distance_transform_edt(~edge) + 0.5) * pixel).astype(np.float32)


def membranes(to_boundary: Float, moved: Float, stain: Stain, z: int, pixel: float) -> Float:
    """Draw the membranes of a section.

    Parameters
    ----------
    to_boundary : (height, width) float32 array
        Distance in nm to the nearest boundary.
    moved : (height, width) float32 array
        Mean distance in nm to the nearest boundary of the two neighbouring sections.
    stain : Stain
        Where membranes are faint or thick.
    z : int
        The section.
    pixel : float
        Pixel size in nm.

    Returns
    -------
    (height, width) float32 array
        Darkness.
    """
    edge = to_boundary < pixel
    reach = 20 / pixel
    weight = gaussian_filter(edge.astype(np.float32), reach)
    lean = gaussian_filter(np.where(edge, moved, 0).astype(np.float32), reach)
    lean /= np.maximum(weight, 1e-4)
    strength = np.clip(0.9 + 0.27 * stain.strength.section(z), 0.12, 1.15)
    upright = MEMBRANE_WIDTH * np.clip(1 + 0.22 * stain.width.section(z), 0.6, 1.6)
    projected = upright + 0.7 * np.minimum(lean, 70)
    darkness = MEMBRANE_DARKNESS * strength * (upright / projected) ** 0.75
    fade = 2.4 + 0.12 * projected  # nm over which the edge of the band fades out
    return darkness * _step((projected / 2 - to_boundary) / fade)


def cytoplasm_texture(rng: np.random.Generator, shape: tuple[int, int], pixel: float) -> Float:
    """Draw mottles of several sizes, and some dark granules."""
    granules = np.clip(20 * speckle(rng, shape, 13 / pixel) - 26, 0, 55)
    return (
        4.5 * speckle(rng, shape, 7 / pixel)
        + 6.0 * speckle(rng, shape, 18 / pixel)
        + 3.5 * speckle(rng, shape, 56 / pixel)
        + granules
    )


def draw_mitochondria(
    rng: np.random.Generator, tissue: Tissue, z: int, warp: Float, to_boundary: Float
) -> tuple[Float, Float]:
    """Draw the mitochondria of a section: two membranes, a dark matrix, cristae.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of texture.
    tissue : Tissue
        What to draw.
    z : int
        The section.
    warp : (3, height, width) float32 array
        Its deformation.
    to_boundary : (height, width) float32 array
        Distance in nm to the boundary of the neurite, which a mitochondrion keeps off.

    Returns
    -------
    covered : (height, width) float32 array
        1 inside, 0 outside.
    darkness : (height, width) float32 array
        What to add there.
    """
    owner, pixel = tissue.owner[z], tissue.resolution[1]
    bead, distance = nearest_tube(tissue.mitochondria, z, warp, tissue.resolution, gap=30.0)
    mine = bead >= 0
    mine[mine] = tissue.mitochondria.owner[bead[mine]] == owner[mine]
    if not mine.any():
        return np.zeros(owner.shape, np.float32), np.zeros(owner.shape, np.float32)
    surface = np.where(mine, distance, 60) + 9 * speckle(rng, owner.shape, 56 / pixel)
    surface = np.maximum(surface, 36 - to_boundary)
    covered, inner = _step(-surface / 3), _step((-surface - 20) / 4)
    outer_membrane = 58 * np.exp(-(((surface + 4) / 8) ** 2))
    inner_membrane = 16 * np.exp(-(((surface + 24) / 7) ** 2))

    angle = np.where(mine, tissue.angles[bead], 0)
    rows, columns = np.indices(owner.shape, dtype=np.float32) * pixel
    bend = 1.8 * speckle(rng, owner.shape, 60 / pixel) + 1.9 * speckle(rng, owner.shape, 22 / pixel)
    wave = (rows * np.cos(angle) - columns * np.sin(angle)) * (2 * np.pi / 42) + bend
    broken = np.clip(0.65 + 0.7 * speckle(rng, owner.shape, 26 / pixel), 0.1, 1.3)
    cristae = 40 * broken * np.clip(np.sin(wave) + 0.25, 0, 1.1)
    pale = 30 * np.clip(speckle(rng, owner.shape, 16 / pixel) - 1, 0, 1.2)
    darkness = 26 * covered + (20 + cristae - pale) * inner
    near = np.exp(-np.maximum(surface, 0) / 4)
    return covered, (darkness + outer_membrane + inner_membrane) * near


def draw_small_things(rng: np.random.Generator, tissue: Tissue, z: int, warp: Float) -> Float:
    """Draw vesicles, microtubules, reticulum and scraps of a section, as darkness."""
    owner, resolution = tissue.owner[z], tissue.resolution
    pixel, thickness = resolution[1], resolution[0]
    filaments, vesicles = tissue.filaments, tissue.vesicles
    chosen = np.rint(filaments.places[:, 0] / thickness) == z
    pixels = unwarp(filaments.places[chosen, 1:], warp, resolution)
    lines = Dots(pixels, filaments.owner[chosen], filaments.ink[chosen] * 5 / pixel)

    chosen = np.rint(vesicles.centres[:, 0] / thickness) == z
    pixels = unwarp(vesicles.centres[chosen, 1:], warp, resolution)
    rings = [
        organelles.outlines(rng, pixels, vesicles.owner[chosen], vesicles.dense[chosen], pixel)
    ]
    for synapse in tissue.synapses:
        pixels = synapse.vesicles[synapse.vesicles[:, 0] == z, 1:].astype(float)
        same = np.full(len(pixels), tissue.owner[synapse.pre])
        rings.append(organelles.outlines(rng, pixels, same, np.zeros(len(pixels), bool), pixel))
    fine = 4.4 / pixel
    darkness = draw(lines, owner, fine, 45)
    for ring in rings:
        darkness += draw(ring, owner, fine, 65) if len(ring.ink) else 0
    return darkness + draw(organelles.scraps(rng, owner, pixel), owner, 7 / pixel, 60)


def draw_synapses(synapses: list[Synapse], z: int, shape: tuple[int, int], pixel: float) -> Float:
    """Draw T-bars and densities of a section, as darkness."""
    darkness = np.zeros(shape, np.float32)
    for synapse in synapses:
        here = synapse.stained[0] == z
        np.add.at(darkness, tuple(synapse.stained[1:, here]), synapse.darkness[here])
    return gaussian_filter(darkness, 5 / pixel)


def _step(x: Float) -> Float:
    """Smooth step from 0 to 1."""
    return 0.5 + 0.5 * np.tanh(x / 2)


def _voxels(scale: tuple[float, float, float], resolution: Resolution) -> tuple[float, ...]:
    return tuple(max(s / r, 1.0) for s, r in zip(scale, resolution, strict=True))
