"""The functions to call: predict a volume, segment affinities, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from malis._checks import Offsets, check_offsets
from malis.affinity import nearest_offsets
from malis.scale.memory import memory_to_predict, memory_to_segment
from malis.scale.run import Options, start
from malis.scale.settings import (
    affinity_array,
    check_apart,
    check_block,
    check_prediction,
    identity,
    label_arrays,
    prediction_settings,
    recipe_for,
    segmentation_settings,
)
from malis.scale.volumes import StoredArray, in_trained_range, offsets_in_volume, open_volume
from malis.training.checkpoint import load_model, validated_inside, validated_threshold

BLOCK = (64, 512, 512)


def segment_volume(
    source: StoredArray | str | Path,
    target: str | Path,
    checkpoint: str | Path,
    *,
    block: Sequence[int] = BLOCK,
    workers: int = 1,
    scheduler: str | None = None,
    memory_per_worker: str | int | None = None,
    threshold: float | None = None,
    linkage: str = "mean",
    sections: bool = False,
    halo: int | None = None,
    tile: int | Sequence[int] | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
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
    workers : int
        Processes of the local cluster, one thread each. 0: no cluster, all in this process.
    scheduler : str, optional
        Address of a running Dask scheduler, "tcp://host:8786", instead of a local cluster. Source,
        target and checkpoint must lie under the same paths there.
    memory_per_worker : str or int, optional
        Limit for each local worker, "4GB" or bytes; by default an equal share of the machine's. A
        worker that exceeds it is ended.
    threshold : float, optional
        Fragments are merged while their score is at least this. By default what the model's card
        says was chosen on validation data, or else 0.5.
    linkage : {"mean", "single"}
        See `malis.segmentation.agglomerate`.
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
    overwrite : bool
        Remove an earlier output at the target, unless it is one of the same call that was
        interrupted.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        ``target``, ``threshold``, ``n_blocks``, ``seconds`` (of this call), ``cpu_seconds`` (of
        all blocks, by step); and in bytes per worker ``memory_needed`` (an upper bound, known in
        advance), ``memory_limit`` and ``memory_peak`` (measured).

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
    source, model = _opened(source), load_model(checkpoint)
    block = check_prediction(source, model, block)
    source = in_trained_range(source, model.card)
    offsets = offsets_in_volume(model.offsets)
    threshold = validated_threshold(model.card, linkage) if threshold is None else float(threshold)
    recipe = recipe_for(
        source.shape,
        offsets,
        source.resolution,
        halo,
        inside=validated_inside(model.card, linkage),
        sections=sections,
    )
    check_apart(source, target)
    predict_settings = prediction_settings(source, checkpoint, block)
    segment_settings = segmentation_settings(recipe, threshold, linkage)
    with start(
        target,
        predict_settings | segment_settings,
        affinity_array(source, offsets) | label_arrays(source, block),
        shape=source.shape,
        block=block,
        memory_needed=max(
            memory_to_predict(model.network, source.shape, block, tile),
            memory_to_segment(source.shape, block, recipe.halo, len(offsets)),
        ),
        options=Options(workers, scheduler, memory_per_worker, overwrite, progress),
    ) as run:
        run.predict(source, Path(checkpoint).absolute(), tile, device)
        run.segment(None, recipe, threshold, linkage)
        return {"threshold": threshold, **run.report()}


def predict_volume(
    source: StoredArray | str | Path,
    target: str | Path,
    checkpoint: str | Path,
    *,
    block: Sequence[int] = BLOCK,
    workers: int = 1,
    scheduler: str | None = None,
    memory_per_worker: str | int | None = None,
    tile: int | Sequence[int] | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Predict the affinities of a volume, block by block.

    Parameters
    ----------
    source, target, checkpoint, block, workers, scheduler, memory_per_worker, tile, device, \
overwrite, progress
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
    source, model = _opened(source), load_model(checkpoint)
    block = check_prediction(source, model, block)
    source = in_trained_range(source, model.card)
    check_apart(source, target)
    with start(
        target,
        prediction_settings(source, checkpoint, block),
        affinity_array(source, offsets_in_volume(model.offsets)),
        shape=source.shape,
        block=block,
        memory_needed=memory_to_predict(model.network, source.shape, block, tile),
        options=Options(workers, scheduler, memory_per_worker, overwrite, progress),
    ) as run:
        run.predict(source, Path(checkpoint).absolute(), tile, device)
        return run.report()


def segment_affinities(
    source: StoredArray | str | Path,
    target: str | Path,
    *,
    threshold: float,
    offsets: Offsets | None = None,
    block: Sequence[int] = BLOCK,
    workers: int = 1,
    scheduler: str | None = None,
    memory_per_worker: str | int | None = None,
    linkage: str = "mean",
    inside: float | None = None,
    sections: bool = False,
    halo: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Segment affinities that exist already, block by block.

    Parameters
    ----------
    source : StoredArray, str or Path
        Affinities (C, z, y, x), floats in [0, 1] or uint8 up to 255; where a path holds more than
        them, its dataset "affinities".
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
    block, workers, scheduler, memory_per_worker, linkage, sections, halo, overwrite, progress
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
    path, source = source, _opened(source)
    if source.ndim == 3 and path is not source:
        source = open_volume(path, "affinities")
    if offsets is None:
        offsets = source.attributes.get("offsets", nearest_offsets(3))
    steps = check_offsets(offsets)
    if source.ndim != 4 or steps.shape != (source.shape[0], 3):
        raise ValueError(
            f"{source.name} must have shape (C, z, y, x), one channel for each of the offsets "
            f"{steps.tolist()}, got {source.shape}"
        )
    if source.dtype != np.uint8 and source.dtype.kind != "f":
        raise ValueError(f"{source.name} must hold floats or uint8, got {source.dtype}")
    check_apart(source, target)
    shape = source.shape[1:]
    block = check_block(block, shape)
    recipe = recipe_for(shape, steps, source.resolution, halo, inside=inside, sections=sections)
    settings = {
        "source": identity(source),
        "block": block,
        **segmentation_settings(recipe, threshold, linkage),
    }
    with start(
        target,
        settings,
        label_arrays(source, block),
        shape=shape,
        block=block,
        memory_needed=memory_to_segment(shape, block, recipe.halo, len(steps)),
        options=Options(workers, scheduler, memory_per_worker, overwrite, progress),
    ) as run:
        run.segment(source, recipe, threshold, linkage)
        return {"threshold": threshold, **run.report()}


def _opened(source: StoredArray | str | Path) -> StoredArray:
    return source if isinstance(source, StoredArray) else open_volume(source)
