"""What is done to one block: affinities, fragments, boundaries, labels.

Each function reads what it needs, with a halo, and writes the block's own voxels.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from malis.affinity import edge_slices
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.own_unet import FullyConvolutional
from malis.inference.tiles import predict
from malis.scale.blocks import Block, Box, grow, within
from malis.scale.output import Output, new_file
from malis.scale.volumes import StoredArray
from malis.segmentation.grid import as_affinities, edges_of_all_axes, mean_of_neighbours
from malis.segmentation.numbering import compact
from malis.segmentation.oversegmentation import FragmentSteps, fragment_steps, inside_of
from malis.segmentation.regions import group_by_pair
from malis.training.checkpoint import Model, load_model
from malis.training.loop import choose_device

SAMPLE = 2**22  # voxels that the threshold of the fragments comes from


class Recipe(NamedTuple):
    """How affinities become fragments and boundaries.

    Attributes
    ----------
    offsets : (C, 3) nested tuple of int
        The edge of every channel.
    resolution : (3,) tuple of float
        Size of a voxel.
    per_section : bool
        Fragments lie within sections.
    link : bool
        No channel joins sections; their regions are linked by overlap.
    halo : (3,) tuple of int
        Voxels around a block that its fragments are computed from.
    inside : float, optional
        Average affinity above which a voxel lies inside an object, one for all blocks; None until
        it is found in samples of them.
    sections : bool
        Sections are segmented one by one, and nothing joins them.
    """

    offsets: tuple[tuple[int, ...], ...]
    resolution: tuple[float, ...]
    per_section: bool
    link: bool
    halo: tuple[int, ...]
    inside: float | None = None
    sections: bool = False


def halo_of_network(net: FullyConvolutional) -> tuple[int, ...]:
    """Return how far a block must be extended on each side, (z, y, x), to predict it.

    In a piece that begins on a multiple of the stride, a voxel at least `Geometry.context` from the
    edge does not feel it. From such a voxel the next ones, up to the next multiple, are up to
    ``stride - 1`` away and read no further back, so no voxel reads further than the sum of both.
    Along z, a 2D network needs the neighbours that it sees as channels, and no more.
    """
    across = (neighbours_of(net),) * (3 - net.ndim)
    geometry = net.geometry
    reach = (c + s - 1 for c, s in zip(geometry.context, geometry.stride, strict=True))
    return across + tuple(reach)


def predict_block(
    output: Output,
    source: StoredArray,
    checkpoint: Path,
    tile: int | Sequence[int] | None,
    device: str | None,
    block: Block,
) -> None:
    """Predict the affinities of a block.

    The values are those of the whole volume in one piece: the halo holds all voxels that the
    network reads, begins where its pooling does, and ends, at a border of the volume, with it.
    """
    net = _load(str(checkpoint), checkpoint.stat().st_mtime_ns).network
    halo = halo_of_network(net)
    outer = grow(block.box, halo, output.shape)
    stride = (1,) * (3 - net.ndim) + net.geometry.stride
    outer = tuple(slice(-(-a.start // s) * s, a.stop) for a, s in zip(outer, stride, strict=True))
    raw = stack_neighbours(source[outer], neighbours_of(net))
    try:
        affinities = predict(net, raw, tile=tile, device=device or choose_device(), progress=False)
    except ValueError as error:
        begin = [side.start for side in outer]
        raise ValueError(f"{error} (voxels counted from {begin})") from error
    output.write("affinities", block.box, affinities[(slice(None), *within(block.box, outer))])


def average_block(
    output: Output, affinities: StoredArray | None, recipe: Recipe, block: Block
) -> None:
    """Keep a sample of the average affinities of a block's voxels."""
    outer = grow(block.box, (1, 1, 1), output.shape)
    values, offsets = as_affinities(_read_affinities(output, affinities, outer), recipe.offsets)
    edges = edges_of_all_axes(values.shape[1:], offsets, recipe.per_section)
    average = mean_of_neighbours(values, edges)[within(block.box, outer)].ravel()
    wanted = max(SAMPLE // output.n_blocks, 64)
    with new_file(output.file_of("averages", block)) as file:
        np.savez(file, average=average[:: -(-average.size // wanted)])


def sampled_inside(output: Output) -> float:
    """Choose the threshold of the fragments, one for all blocks, from their samples."""
    tables = output.read_tables("averages")
    return inside_of(np.concatenate([table["average"] for table in tables]))


def fragment_block(
    output: Output, affinities: StoredArray | None, recipe: Recipe, block: Block
) -> None:
    """Cut a block into fragments and name them by their seeds."""
    outer = grow(block.box, recipe.halo, output.shape)
    steps = fragment_steps(
        _read_affinities(output, affinities, outer),
        recipe.offsets,
        threshold=recipe.inside,
        sampling=recipe.resolution,
        per_section=recipe.per_section,
    )
    names = name_fragments(steps, outer, output.shape)
    inner = within(block.box, outer)
    output.write("fragments", block.box, names[steps.fragments[inner]])


def name_fragments(steps: FragmentSteps, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Give fragments ids that are unique in the whole volume.

    The id of a fragment is the number, in C order and from 1, of the first voxel of its seed. Two
    blocks that see the same seed name it alike, without knowing of each other: a fragment that
    crosses their face is one fragment. A fragment without a seed is named by its own first voxel.

    `box` is where the voxels lie in the volume, `shape` its size. Returned are the ids of the
    fragments 0 ... N, (N + 1,) uint64; 0 stays 0.
    """
    names = np.zeros(int(steps.fragments.max(initial=0)) + 1, dtype=np.uint64)
    for labels in (steps.fragments, steps.seeds):  # where there is a seed, its name replaces
        voxels = np.flatnonzero(labels)
        numbers, first = np.unique(labels.ravel()[voxels], return_index=True)
        place = np.unravel_index(voxels[first], labels.shape)
        place = tuple(p + side.start for p, side in zip(place, box, strict=True))
        names[numbers] = np.ravel_multi_index(place, shape) + 1
    return names


def boundary_block(
    output: Output, affinities: StoredArray | None, recipe: Recipe, block: Block
) -> None:
    """Sum up the affinities between every two fragments that touch in a block.

    An edge belongs to the block in which the voxel lies that owns it, so each counts once. Written
    are, for every pair, number, sum and maximum; and the fragments' sizes. Where sections have to
    be linked, also how many voxels of one section lie above which fragment of the section before.
    """
    outer = grow(block.box, (1, 1, 1), output.shape)
    inner = within(block.box, outer)
    fragments = output.read("fragments", outer)
    numbers, ids = compact(fragments)
    values = _read_affinities(output, affinities, block.box)
    pairs, weights = [np.zeros((2, 0), np.int32)], [np.zeros(0, np.float32)]
    for channel, offset in enumerate(recipe.offsets):
        if np.abs(offset).sum() != 1 or (recipe.sections and offset[0]):
            continue
        own, ends = _edges_of_block(inner, numbers.shape, offset)
        near, far = numbers[own], numbers[ends]
        taken = (near != far) & (near > 0) & (far > 0)
        near, far = near[taken] - 1, far[taken] - 1
        pairs.append(np.stack([np.minimum(near, far), np.maximum(near, far)]))
        weights.append(values[channel][within(own, inner)][taken])
    graph = group_by_pair(len(ids), np.concatenate(pairs, axis=1), np.concatenate(weights))

    inside = numbers[inner]
    present, sizes = np.unique(inside[inside > 0], return_counts=True)
    overlaps, counts = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    if recipe.link:
        own, ends = _edges_of_block(inner, numbers.shape, (-1, 0, 0))
        both = (numbers[own] > 0) & (numbers[ends] > 0)
        pair = (numbers[ends][both] - 1) * np.int64(len(ids)) + numbers[own][both] - 1
        pair, counts = np.unique(pair, return_counts=True)
        overlaps = np.stack(np.divmod(pair, max(len(ids), 1)), axis=1)
    with new_file(output.file_of("boundaries", block)) as file:
        np.savez_compressed(
            file,
            pairs=ids[graph.edges],
            contact=graph.contact,
            total=graph.total,
            maximum=graph.maximum,
            ids=ids[present - 1],
            sizes=sizes,
            overlaps=ids[overlaps],
            overlap_sizes=counts,
        )


def label_block(output: Output, levels: list[tuple[int, int, int]], block: Block) -> None:
    """Replace the fragments of a block by the segments that they became part of."""
    fragments = output.read("fragments", block.box)
    ids = np.load(output.file("fragments.npy"), mmap_mode="r")  # tables of the whole volume
    segments = np.load(output.file("segments.npy"), mmap_mode="r")
    present, where = np.unique(fragments, return_inverse=True)
    known = present > 0
    table = np.zeros(len(present), dtype=np.uint64)
    table[known] = segments[np.searchsorted(ids, present[known])]
    del ids, segments  # Windows replaces no file that is mapped, as by an error further down
    labels = table[where].reshape(fragments.shape)
    for level, factor in reversed(list(enumerate(levels))):  # the finest says that all are done
        coarse = tuple(
            slice(side.start // f, -(-side.stop // f))
            for side, f in zip(block.box, factor, strict=True)
        )
        every = tuple(slice(None, None, f) for f in factor)
        output.write("segmentation", coarse, labels[every], level)


def _read_affinities(output: Output, source: StoredArray | None, box: Box) -> np.ndarray:
    """Read affinities, from the output itself unless they come from elsewhere."""
    if source is None:
        return output.read("affinities", box)
    return source[(slice(None), *box)].astype(np.float32, copy=False)


def _edges_of_block(inner: Box, shape: tuple[int, ...], offset: tuple[int, ...]) -> tuple[Box, Box]:
    """Return the voxels of a block that own an edge along an offset, and the voxels it leads to."""
    existing = edge_slices(shape, offset)[0]
    own = tuple(
        slice(max(side.start, e.start), min(side.stop, e.stop))
        for side, e in zip(inner, existing, strict=True)
    )
    ends = tuple(slice(s.start + d, s.stop + d) for s, d in zip(own, offset, strict=True))
    return own, ends


@functools.lru_cache(maxsize=1)
def _load(path: str, modified: int) -> Model:
    """Load a network once per process and version of its file."""
    return load_model(path)
