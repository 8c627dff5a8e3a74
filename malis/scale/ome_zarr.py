"""OME-Zarr images, created to be written block by block: version 0.5 in Zarr format 3."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from malis._checks import extra_package

LARGEST_CHUNK, SMALLEST_CHUNK = 64, 16


def create_ome_zarr(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    resolution: Sequence[float],
    offset: Sequence[float],
    block: tuple[int, ...],
    levels: Sequence[tuple[int, int, int]] = ((1, 1, 1),),
    fill_value: Any = 0,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty OME-Zarr 0.5 image to be filled block by block.

    Every block is one file (a shard, with checksums), made of smaller chunks that viewers load one
    by one. So no two blocks ever write the same file.

    Parameters
    ----------
    path : str or Path
        The group to create; it must not exist.
    shape : tuple of int
        (z, y, x) or (C, z, y, x).
    dtype : dtype
    resolution, offset : (3,) sequences of float
        In nm, (z, y, x).
    block : (3,) tuple of int
        Blocks in which it will be written.
    levels : sequence of (3,) tuples of int
        Factors by which the levels of the pyramid are coarser than the volume, the first (1, 1, 1).
        The block must divide by them.
    fill_value : scalar
        What unwritten voxels read as.
    attributes : mapping, optional
        Further attributes of the finest array.
    """
    zarr = extra_package("zarr", "scale")
    channels, space = shape[:-3], shape[-3:]
    none = len(channels)  # axes in front of those of space
    offset = [float(x) for x in offset]
    group = zarr.create_group(path, zarr_format=3)
    datasets = []
    for level, factor in enumerate(levels):
        shard = [n // f for n, f in zip(block, factor, strict=True)]
        scale = [float(r * f) for r, f in zip(resolution, factor, strict=True)]
        further = dict(attributes or {}) if level == 0 else {}
        group.create_array(
            str(level),
            shape=(*channels, *(-(-n // f) for n, f in zip(space, factor, strict=True))),
            dtype=dtype,
            chunks=(*[1] * none, *map(_chunk, shard)),
            shards=(*channels, *shard),
            compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
            fill_value=fill_value,
            dimension_names=[*["c"] * none, "z", "y", "x"],
            attributes={"resolution": scale, "offset": offset, **further},
        )
        steps = [
            {"type": "scale", "scale": [*[1.0] * none, *scale]},
            {"type": "translation", "translation": [*[0.0] * none, *offset]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [{"name": "c", "type": "channel"}] * none
    axes += [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    image = {"name": Path(path).name, "axes": axes, "datasets": datasets}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


def pyramid(
    shape: tuple[int, ...], block: tuple[int, ...], resolution: tuple[float, ...]
) -> list[tuple[int, int, int]]:
    """Plan coarser levels for viewers: halve the finest axes until a level fits one screen.

    Returns the factors of every level, the first (1, 1, 1); all of them divide the block.

    Examples
    --------
    >>> pyramid((125, 1250, 1250), (64, 512, 512), (40, 4, 4))
    [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]
    """
    levels = [(1, 1, 1)]
    while any(n > 256 * f for n, f in zip(shape, levels[-1], strict=True)):
        sides = [r * f for r, f in zip(resolution, levels[-1], strict=True)]
        halved = [2 if side < 2 * min(sides) else 1 for side in sides]
        coarser = tuple(f * h for f, h in zip(levels[-1], halved, strict=True))
        if any(b % f for b, f in zip(block, coarser, strict=True)):
            break
        levels.append(coarser)
    return levels


def _chunk(size: int) -> int:
    """Return a divisor of a block's side that suits a viewer; the side itself if there is none."""
    divisors = [n for n in range(SMALLEST_CHUNK, LARGEST_CHUNK + 1) if size % n == 0]
    return max(divisors, default=size)
