"""The functions to call: predict a volume, segment affinities, or both."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from malis._checks import Offsets, check_offsets
from malis.affinity import nearest_offsets
from malis.inference.grey_values import normalise
from malis.inference.neighbours import neighbours_of
from malis.scale.memory import memory_to_predict, memory_to_segment
from malis.scale.ome_zarr import pyramid
from malis.scale.run import start
from malis.scale.stages import Recipe
from malis.scale.volumes import (
    StoredArray,
    check_kind,
    in_trained_range,
    offsets_in_volume,
    open_volume,
)
from malis.segmentation.recipe import are_sections_apart
from malis.segmentation.regions import check_absorb
from malis.training.checkpoint import (
    Model,
    load_model,
    validated_absorb,
    validated_inside,
    validated_threshold,
)

BLOCK = (64, 512, 512)
HALO_IN_VOLUME, HALO_IN_SECTION = 32, 80
LINKAGES_OF_SUMS = ("mean", "single")


def segment_volume(
    source: StoredArray | str | Path,
    target: str | Path,
    checkpoint: str | Path,
    *,
    block: Sequence[int] = BLOCK,
    threshold: float | None = None,
    linkage: str = "mean",
    absorb: int | None = None,
    sections: bool = False,
    halo: int | None = None,
    tile: int | Sequence[int] | None = None,
    device: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment a volume with a trained network, block by block.

    The result is an OME-Zarr folder with the images ``affinities``, ``fragments`` and
    ``segmentation``; `malis.scale.volumes.open_volume` opens the last unless told otherwise. A call
    that was interrupted, by whatever, is continued by the same call.

    Parameters
    ----------
    source : StoredArray, str or Path
        Raw data (z, y, x); a path is opened by `open_volume`. Grey values of other types than uint8
        need a range unless the model's card has one, see `malis.scale.volumes.in_trained_range`.
    target : str or Path
        Folder to write, where all workers see it.
    checkpoint : str or Path
        A model file of `malis.training.checkpoint.save_model`. What a network for sections predicts
        is cut into fragments section by section; where it predicts no affinities across them,
        regions are linked, see `malis.segmentation.link_sections`. What is inside of an object is
        what the model's card says, or else found in samples of all blocks.
    block : (3,) sequence of int
        Size of a block; at least the network's field of view. The larger, the less is computed
        twice, and the more memory a worker needs.
    threshold : float, optional
        Fragments are merged while their score is at least this. By default what the model's card
        says was chosen on validation data, or else 0.5.
    linkage : {"mean", "single"}
        See `malis.segmentation.agglomerate`.
    absorb : int, optional
        Regions of fewer voxels join a neighbour, see `malis.segment`. By default what the model's
        card says, or else 0; 0 for sections on their own, as the card's size is one of a volume.
    sections : bool
        Segment every section on its own, see `malis.segment`.
    halo : int, optional
        What the fragments of a block are computed from around it, in sides of the finest voxel:
        about the width of the thickest objects. By default 80 within sections, where extending a
        block costs little, and 32 in volumes whose fragments have three dimensions.
    tile : int or sequence of int, optional
        Largest input of the network; see `malis.inference.predict`.
    device : str, optional
        Where networks compute; by default on the worker's GPU if it has one.
    **options
        What does not change the result:

        workers : int
            Processes of the local cluster, one thread each; by default 1. 0: no cluster, all in
            this process.
        scheduler : str
            Address of a running Dask scheduler, "tcp://host:8786", instead of a local cluster.
            Source, target and checkpoint must lie under the same paths there.
        memory_per_worker : str or int
            Limit for each local worker, "4GB" or bytes; by default an equal share of the machine's.
            A worker that exceeds it is ended.
        overwrite : bool
            Remove an earlier output at the target, unless it is one of the same call that was
            interrupted.
        progress : bool
            Show progress bars, which is the default.

    Returns
    -------
    dict
        ``target``, ``threshold``, ``n_blocks``, ``seconds`` (of this call), and in bytes per worker
        ``memory_needed`` (an upper bound) and ``memory_limit``.

    Raises
    ------
    ValueError
        If source, checkpoint and block do not fit each other, the source lies in the target, a
        worker's memory is too small for a block, or an argument is out of range.
    FileNotFoundError
        If there is no source or checkpoint.
    FileExistsError
        If there is something at the target that is not ours or, unless it may be overwritten,
        that is complete or of other settings or of an earlier version of the source.
    TypeError
        If the network does not take the source's data type.
    BlockError
        If a block fails: a full disk, damaged data, workers that die. An `OSError`; blocks that are
        done are kept.
    ConnectionError
        If no scheduler answers.

    Notes
    -----
    A local cluster starts processes: in a script, call this under ``if __name__ == "__main__":``.
    Time is linear in the number of blocks, but for the agglomeration of the region graph, which
    runs in this process and holds about 800 bytes for every pair of fragments that touch.
    """
    source, model, block = _opened_with_model(source, checkpoint, block)
    offsets = offsets_in_volume(model.offsets)
    threshold = validated_threshold(model.card, linkage) if threshold is None else float(threshold)
    if absorb is None:
        absorb = validated_absorb(model.card, linkage, sections=sections)
    recipe = _recipe(
        source.shape,
        offsets,
        source.resolution,
        halo,
        inside=validated_inside(model.card, linkage),
        sections=sections,
    )
    with start(
        source,
        target,
        block,
        _settings_to_predict(checkpoint) | _settings_to_segment(recipe, threshold, linkage, absorb),
        _affinities(source, offsets) | _labels(source, block),
        max(
            memory_to_predict(model.network, source.shape, block, tile),
            memory_to_segment(source.shape, block, recipe.halo, len(offsets)),
        ),
        **options,
    ) as run:
        run.predict(source, checkpoint, tile, device)
        run.segment(None, recipe, threshold, linkage, absorb)
        return {"threshold": threshold, **run.finish()}


def predict_volume(
    source: StoredArray | str | Path,
    target: str | Path,
    checkpoint: str | Path,
    *,
    block: Sequence[int] = BLOCK,
    tile: int | Sequence[int] | None = None,
    device: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Predict the affinities of a volume, block by block.

    Parameters
    ----------
    source, target, checkpoint, block, tile, device, **options
        See `segment_volume`. The target holds the image ``affinities``, (C, z, y, x) float32, and
        the edge of every channel in its attribute ``offsets``.

    Returns
    -------
    dict
        See `segment_volume`.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, BlockError, ConnectionError
        See `segment_volume`.
    """
    source, model, block = _opened_with_model(source, checkpoint, block)
    with start(
        source,
        target,
        block,
        _settings_to_predict(checkpoint),
        _affinities(source, offsets_in_volume(model.offsets)),
        memory_to_predict(model.network, source.shape, block, tile),
        **options,
    ) as run:
        run.predict(source, checkpoint, tile, device)
        return run.finish()


def segment_affinities(
    source: StoredArray | str | Path,
    target: str | Path,
    *,
    threshold: float,
    offsets: Offsets | None = None,
    block: Sequence[int] = BLOCK,
    linkage: str = "mean",
    inside: float | None = None,
    absorb: int = 0,
    sections: bool = False,
    halo: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment affinities that exist already, block by block.

    Parameters
    ----------
    source : StoredArray, str or Path
        Affinities (C, z, y, x), floats in [0, 1] or uint8 up to 255; a path is opened by
        `open_volume` with ``kind="affinities"``.
    target : str or Path
        Folder to write; it will hold the images ``fragments`` and ``segmentation``.
    threshold : float
        Fragments are merged while their score is at least this.
    offsets : (C, 3) integers, optional
        The edge of every channel; by default what the source's attribute ``offsets`` says, or else
        `malis.nearest_offsets`.
    inside : float, optional
        Average affinity above which a voxel lies inside an object; by default found in samples of
        all blocks.
    block, linkage, absorb, sections, halo, **options
        See `segment_volume`.

    Returns
    -------
    dict
        See `segment_volume`.

    Raises
    ------
    ValueError
        If the source does not fit the offsets, and as in `segment_volume`.
    FileNotFoundError, FileExistsError, BlockError, ConnectionError
        See `segment_volume`.
    """
    if not isinstance(source, StoredArray):
        source = open_volume(source, kind="affinities")
    check_kind(source, "affinities")
    source = source.as_floats()
    if offsets is None:
        offsets = source.attributes.get("offsets", nearest_offsets(3))
    steps = check_offsets(offsets)
    if steps.shape != (source.shape[0], 3):
        raise ValueError(
            f"{source.name} must have one channel for each of the offsets {steps.tolist()}, got "
            f"shape {source.shape}"
        )
    shape = source.shape[1:]
    block = _checked_block(block, shape)
    recipe = _recipe(shape, steps, source.resolution, halo, inside=inside, sections=sections)
    with start(
        source,
        target,
        block,
        _settings_to_segment(recipe, threshold, linkage, absorb),
        _labels(source, block),
        memory_to_segment(shape, block, recipe.halo, len(steps)),
        **options,
    ) as run:
        run.segment(source, recipe, threshold, linkage, absorb)
        return {"threshold": threshold, **run.finish()}


def _opened_with_model(
    source: StoredArray | str | Path, checkpoint: str | Path, block: Sequence[int]
) -> tuple[StoredArray, Model, tuple[int, ...]]:
    """Open source and network, and check that they and the block fit each other."""
    source = source if isinstance(source, StoredArray) else open_volume(source)
    model = load_model(checkpoint)
    net = model.network
    neighbours_of(net)  # refuses channels that are no neighbouring sections
    if source.ndim != 3:
        raise ValueError(
            f"source must be a volume (z, y, x), got {source.name} of shape {source.shape}"
        )
    normalise(np.zeros(0, source.dtype))  # refuses types that it does not take
    block = _checked_block(block, source.shape)
    view = (1,) * (3 - net.ndim) + net.geometry.field_of_view
    if any(b < min(v, n) for b, v, n in zip(block, view, source.shape, strict=True)):
        raise ValueError(
            f"block {block} is smaller than the network's field of view {view}: most voxels would "
            "be computed many times"
        )
    return in_trained_range(source, model.card), model, block


def _checked_block(block: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the block, cut off to the size of the volume."""
    block = tuple(int(n) for n in block)
    if len(block) != 3 or min(block) < 1:
        raise ValueError(f"block must be 3 positive numbers (z, y, x), got {block}")
    return tuple(min(b, n) for b, n in zip(block, shape, strict=True))


def _recipe(
    shape: tuple[int, ...],
    offsets: Offsets,
    resolution: tuple[float, ...],
    halo: int | None,
    *,
    inside: float | None = None,
    sections: bool = False,
) -> Recipe:
    """Decide how the volume is cut into fragments, like `malis.segment`."""
    offsets = check_offsets(offsets)
    flat, per_section = are_sections_apart(shape, offsets, resolution, sections or None)
    if halo is None:
        halo = HALO_IN_SECTION if per_section else HALO_IN_VOLUME
    if halo < 0:
        raise ValueError(f"halo must not be negative, got {halo}")
    finest = min(resolution[int(per_section) :])
    voxels = [math.ceil(halo * finest / side) for side in resolution]
    if per_section:
        voxels[0] = 0
    return Recipe(
        offsets=tuple(map(tuple, offsets.tolist())),
        resolution=resolution,
        per_section=per_section,
        link=flat and not sections,
        halo=tuple(voxels),
        inside=inside,
        sections=sections,
    )


def _settings_to_predict(checkpoint: str | Path) -> dict[str, Any]:
    """Return what affinities depend on."""
    return {"checkpoint": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()}


def _settings_to_segment(
    recipe: Recipe, threshold: float, linkage: str, absorb: int
) -> dict[str, Any]:
    """Return what a segmentation of given affinities depends on."""
    if linkage not in LINKAGES_OF_SUMS:
        raise ValueError(f"linkage must be one of {', '.join(LINKAGES_OF_SUMS)}, got {linkage!r}")
    check_absorb(absorb)
    return {**recipe._asdict(), "threshold": threshold, "linkage": linkage, "absorb": absorb}


def _affinities(source: StoredArray, offsets: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    """Describe the image of affinities to be created."""
    shape = (len(offsets), *source.shape)
    image = {"shape": shape, "dtype": np.float32, "attributes": {"offsets": offsets}}
    return {"affinities": image}


def _labels(source: StoredArray, block: tuple[int, ...]) -> dict[str, Any]:
    """Describe the images of fragments and segments to be created."""
    image = {"shape": source.shape[-3:], "dtype": np.uint64}
    levels = pyramid(image["shape"], block, source.resolution)
    return {"fragments": image, "segmentation": {**image, "levels": levels}}
