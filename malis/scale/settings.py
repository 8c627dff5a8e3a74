"""What a run depends on: the checks of what the caller gave, and the notes that compare runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from malis._checks import Offsets, check_offsets
from malis.inference.grey_values import normalise
from malis.inference.neighbours import neighbours_of
from malis.scale.stages import Recipe, file_checksum
from malis.scale.volumes import StoredArray, pyramid
from malis.segmentation.recipe import are_sections_apart
from malis.training.checkpoint import Model

HALO_IN_VOLUME, HALO_IN_SECTION = 32, 80
LINKAGES_OF_SUMS = ("mean", "single")
VERSION = 6  # raise it when the same settings give another result, or notes, than before


def check_apart(source: StoredArray, target: str | Path) -> None:
    """Refuse a target that is, or holds, the source: to overwrite it would remove the source."""
    if "://" in source.path or "://" in str(target):
        return
    place = Path(source.path).resolve() / source.dataset
    if place.is_relative_to(Path(target).resolve()):
        raise ValueError(f"the target {target} holds the source {source.name}: take another name")


def check_block(block: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the block, cut off to the size of the volume."""
    block = tuple(int(n) for n in block)
    if len(block) != 3 or min(block) < 1:
        raise ValueError(f"block must be 3 positive numbers (z, y, x), got {block}")
    return tuple(min(b, n) for b, n in zip(block, shape, strict=True))


def check_prediction(source: StoredArray, model: Model, block: Sequence[int]) -> tuple[int, ...]:
    """Check that source, network and block fit each other; return the block."""
    net = model.network
    neighbours_of(net)  # refuses channels that are no neighbouring sections
    if source.ndim != 3:
        raise ValueError(
            f"source must be a volume (z, y, x), got {source.name} of shape {source.shape}"
        )
    normalise(np.zeros(0, source.dtype))  # refuses types that it does not take
    block = check_block(block, source.shape)
    view = (1,) * (3 - net.ndim) + net.geometry.field_of_view
    if any(b < min(v, n) for b, v, n in zip(block, view, source.shape, strict=True)):
        raise ValueError(
            f"block {block} is smaller than the network's field of view {view}: most voxels would "
            "be computed many times"
        )
    return block


def recipe_for(
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
        tuple(map(tuple, offsets.tolist())),
        resolution,
        per_section,
        flat and not sections,
        tuple(voxels),
        inside,
        sections,
    )


def identity(source: StoredArray) -> list[Any]:
    """Say which volume it is, and which version of it.

    Of a file, that is its size and when it was changed; of a Zarr folder, those of the array's
    metadata, which tell an array that was created anew, but not one whose chunks were rewritten.
    """
    facts = [source.name, source.shape, str(source.dtype), source.resolution, source.offset]
    facts += [source.grey_range] if source.grey_range else []
    if "://" in source.path:
        return facts
    path = Path(source.path)
    array = path / source.dataset
    files = [path] if path.is_file() else [array / "zarr.json", array / ".zarray"]
    states = [file.stat() for file in files if file.exists()]
    return [*facts, *((state.st_size, state.st_mtime_ns) for state in states)]


def prediction_settings(
    source: StoredArray, checkpoint: str | Path, block: tuple[int, ...]
) -> dict[str, Any]:
    """Return all that affinities depend on."""
    return {
        "version": VERSION,
        "source": identity(source),
        "checkpoint": file_checksum(Path(checkpoint)),
        "block": block,
    }


def segmentation_settings(recipe: Recipe, threshold: float, linkage: str) -> dict[str, Any]:
    """Return all that a segmentation of given affinities depends on."""
    if linkage not in LINKAGES_OF_SUMS:
        raise ValueError(f"linkage must be one of {', '.join(LINKAGES_OF_SUMS)}, got {linkage!r}")
    return {"version": VERSION, **recipe._asdict(), "threshold": threshold, "linkage": linkage}


def affinity_array(
    source: StoredArray, offsets: tuple[tuple[int, ...], ...]
) -> dict[str, dict[str, Any]]:
    """Describe the image of affinities to be created."""
    return {
        "affinities": {
            "shape": (len(offsets), *source.shape),
            "dtype": np.float32,
            "resolution": source.resolution,
            "offset": source.offset,
            "attributes": {"offsets": offsets},
        }
    }


def label_arrays(source: StoredArray, block: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Describe the images of fragments and segments to be created."""
    shape = source.shape[-3:]
    image = {
        "shape": shape,
        "dtype": np.uint64,
        "resolution": source.resolution,
        "offset": source.offset,
    }
    levels = pyramid(shape, block, source.resolution)
    return {"fragments": image, "segmentation": {**image, "levels": levels}}
