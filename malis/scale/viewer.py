"""Look at volumes in Neuroglancer, each in its place in nanometres.

The Python package ``neuroglancer`` carries the page and serves the voxels, so nothing leaves the
machine: whoever opens the link needs a browser with WebGL 2 that reaches the address, by default
one on this machine. Put volumes of any size into it: pieces are read when they come into sight.
"""

import math
from typing import Any

import numpy as np

from malis._checks import extra_package
from malis.scale.volumes import StoredArray, check_kind

LOOPBACK = "127.0.0.1"
IN_MEMORY = 1 << 29  # bytes; smaller volumes are read at once, and their segments get meshes
KINDS = {"raw": "raw", "affinities": "affinities", "truth": "labels", "segmentation": "labels"}
GREY = "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }"
COLOUR = "void main() {{ emitRGB(vec3(getDataValue(0), getDataValue({}), getDataValue({}))); }}"


def open_viewer(
    raw: StoredArray,
    segmentation: StoredArray | None = None,
    truth: StoredArray | None = None,
    affinities: StoredArray | None = None,
    *,
    bind: str = LOOPBACK,
    port: int = 0,
) -> Any:
    """Serve volumes to Neuroglancer.

    Parameters
    ----------
    raw : StoredArray
        Grey values, (z, y, x), from `malis.scale.volumes.open_volume`.
    segmentation, truth : StoredArray, optional
        Labels, (z, y, x); 0 is shown as nothing.
    affinities : StoredArray, optional
        (C, z, y, x) in [0, 1]; the first three channels are shown as red, green and blue.
    bind : str
        Address to listen at. Any other than the default lets other machines in that know the link.
    port : int
        Port to listen at; by default a free one.

    Returns
    -------
    neuroglancer.Viewer
        ``str(viewer)`` is the link; it is served until the process ends.

    Raises
    ------
    ValueError
        If a volume is not on raw's grid, or not of its kind.
    OSError
        If the address cannot be listened at.
    ModuleNotFoundError
        If neuroglancer is not installed.
    """
    volumes = {"raw": raw, "affinities": affinities, "truth": truth, "segmentation": segmentation}
    volumes = {name: volume for name, volume in volumes.items() if volume is not None}
    for name, volume in volumes.items():
        check_kind(volume, KINDS[name])
        _check_inside(raw, volume)
    neuroglancer = extra_package("neuroglancer", "scale")
    neuroglancer.set_server_bind_address(bind, port)
    try:
        viewer = neuroglancer.Viewer()
    except OSError as error:
        raise OSError(f"cannot listen at {bind}, port {port}: {error.strerror}") from error
    shown = [name for name in volumes if name != "raw"]
    middle = volumes.get("segmentation", raw)
    sides = zip(middle.offset, middle.shape[-3:], raw.resolution, strict=True)
    with viewer.txn() as state:
        state.dimensions = _space(neuroglancer, "xyz", raw.resolution[::-1])
        state.position = [offset / side + n // 2 + 0.5 for offset, n, side in sides][::-1]
        for name, volume in volumes.items():
            state.layers[name] = _layer(neuroglancer, name, volume)
        state.layout = "4panel"
        if len(shown) > 1:  # what is compared stands side by side, over the same raw data
            state.layout = neuroglancer.row_layout(
                [neuroglancer.LayerGroupViewer(layers=["raw", x], layout="xy") for x in shown]
            )
    return viewer


def _check_inside(raw: StoredArray, other: StoredArray) -> None:
    """Raise a ValueError unless a volume has raw's voxels and lies inside of raw.

    It may be smaller than raw, as the labels of padded CREMI samples are, if its offset says where
    it begins.
    """
    shape = other.shape[-3:]
    if not np.allclose(raw.resolution, other.resolution, rtol=1e-6):
        raise ValueError(
            f"{raw.name} has voxels of {raw.resolution} nm, but {other.name} of "
            f"{other.resolution} nm"
        )
    if np.allclose(raw.offset, other.offset):
        if raw.shape != shape:
            raise ValueError(f"{raw.name} has shape {raw.shape}, but {other.name} has {shape}")
        return
    start = np.subtract(other.offset, raw.offset) / raw.resolution
    if (start < -0.5).any() or (start + shape > np.add(raw.shape, 0.5)).any():
        raise ValueError(
            f"{other.name} ({shape} voxels at {other.offset} nm) does not lie inside of {raw.name} "
            f"({raw.shape} voxels at {raw.offset} nm)"
        )


def _layer(neuroglancer: Any, name: str, volume: StoredArray) -> Any:
    """Return a layer whose voxels lie where they lie in the tissue."""
    labels, channels = KINDS[name] == "labels", volume.shape[:-3]
    small = math.prod(volume.shape) * volume.dtype.itemsize <= IN_MEMORY
    space = _space(neuroglancer, "zyx", volume.resolution, len(channels))
    matrix = np.eye(space.rank, space.rank + 1)
    matrix[-3:, -1] = np.divide(volume.offset, volume.resolution)
    source = neuroglancer.LayerDataSource(
        neuroglancer.LocalVolume(
            _Lazy(volume)[:] if small else _Lazy(volume),
            dimensions=space,
            volume_type="segmentation" if labels else "image",
        ),
        transform=neuroglancer.CoordinateSpaceTransform(output_dimensions=space, matrix=matrix),
    )
    if labels:
        return neuroglancer.SegmentationLayer(source=source, selected_alpha=0.35)
    if not channels:
        return neuroglancer.ImageLayer(source=source, shader=GREY)
    shader = COLOUR.format(*(min(c, channels[0] - 1) for c in (1, 2)))
    return neuroglancer.ImageLayer(source=source, shader=shader, opacity=1.0)


def _space(neuroglancer: Any, names: str, resolution: tuple[float, ...], channels: int = 0) -> Any:
    """Return axes with their units; "c^" is an axis that a shader sees as a whole."""
    return neuroglancer.CoordinateSpace(
        names=["c^"] * channels + list(names),
        units=[""] * channels + ["nm"] * 3,
        scales=[1] * channels + list(resolution),
    )


class _Lazy:
    """A volume whose voxels are read when they come into sight; the viewer knows no int64."""

    def __init__(self, volume: StoredArray) -> None:
        self.volume, self.shape = volume, volume.shape
        self.dtype = np.dtype(np.uint64) if volume.dtype == np.int64 else volume.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.volume[index].view(self.dtype)

    def transpose(self) -> Any:
        """Refuse a mesh, for which the whole volume would have to be read."""
        raise extra_package("neuroglancer", "scale").local_volume.MeshesNotSupportedForVolume
