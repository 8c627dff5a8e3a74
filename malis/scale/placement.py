"""Axes, voxel size and place of an array, from its metadata as CREMI, OME-Zarr or funlib write it.

What is stored may be in another order of axes or in other units; what comes out is (z, y, x), in
nanometres.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

logger = logging.getLogger(__name__)

UNITS = {  # in nanometres; lengths without a unit are nanometres
    **dict.fromkeys(("", "nm", "nanometer"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "micrometer"), 1e3),  # both signs that mean micro
    **dict.fromkeys(("mm", "millimeter"), 1e6),
    **dict.fromkeys(("m", "meter"), 1e9),
    **dict.fromkeys(("pm", "picometer"), 1e-3),
    **dict.fromkeys(("å", "angstrom"), 0.1),
}
Lengths = tuple[float, float, float]


class Placement(NamedTuple):
    """How the axes of a stored array make a volume, and where that lies.

    Attributes
    ----------
    order : tuple of int
        The stored axes that are (z, y, x) or (c, z, y, x); the others have length 1.
    resolution : (3,) tuple of float, or None
        Size of a voxel in nm, (z, y, x), if the metadata name it.
    offset : (3,) tuple of float, or None
        Place of the first voxel in nm.
    """

    order: tuple[int, ...]
    resolution: Lengths | None = None
    offset: Lengths | None = None


def placement_of_array(
    name: str, shape: tuple[int, ...], attributes: Mapping[str, Any], axes: Any = None
) -> Placement:
    """Read the attributes of an array, which messages call `name`.

    They are ``resolution`` or ``voxel_size``, and ``offset``, in the unit(s) of ``units`` or
    ``unit``, in the order of ``axis_names``; by default nm, and the names that `axes` gives.

    Raises
    ------
    ValueError
        If the axes are not those of a volume, or an attribute is not what it should be.
    """
    order = order_of_axes(name, shape, attributes.get("axis_names", axes))
    space = [sorted(order[-3:]).index(axis) for axis in order[-3:]]  # place among stored z, y, x
    units = attributes.get("units", attributes.get("unit"))

    def read(*keys: str) -> Lengths | None:
        key = next((key for key in keys if attributes.get(key) is not None), None)
        if key is None:
            return None
        what, positive = f"{name}: the attribute {key}", key != "offset"
        lengths = _lengths(what, attributes[key], units, positive=positive)
        return tuple(lengths[axis] for axis in space)

    return Placement(order, read("resolution", "voxel_size"), read("offset"))


def placement_of_image(
    name: str, shape: tuple[int, ...], image: Mapping[str, Any], level: str
) -> Placement:
    """Read the metadata of a level of an OME-Zarr image, version 0.1 to 0.5.

    `image` is one of the ``multiscales`` of a group, `level` the path of an array there, `shape`
    its shape as stored. A version without scales gives a placement without resolution.

    Raises
    ------
    ValueError
        If the metadata cannot be read, or the axes are not those of a volume.
    """
    try:
        axes = image.get("axes") or "tczyx"  # before version 0.3
        axes = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
        names = [axis["name"] for axis in axes]
        units = [axis.get("unit") for axis in axes]
        dataset = next(each for each in image["datasets"] if str(each["path"]) == level)
        steps = list(dataset.get("coordinateTransformations") or [])
        steps += image.get("coordinateTransformations") or []
        resolution, offset = np.ones(len(names)), np.zeros(len(names))
        for step in steps:
            if step["type"] == "scale":
                factor = _one_each(step["scale"], names)
                resolution, offset = resolution * factor, offset * factor
            elif step["type"] == "translation":
                offset = offset + _one_each(step["translation"], names)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name} has multiscales metadata that cannot be read: {error!r}"
        ) from error
    order = order_of_axes(name, shape, names)
    if not any(step["type"] == "scale" for step in steps):
        return Placement(order)
    space = list(order[-3:])
    units = [units[axis] for axis in space]
    return Placement(
        order,
        _lengths(f"{name}: its scale", resolution[space], units, positive=True),
        _lengths(f"{name}: its translation", offset[space], units),
    )


def order_of_axes(name: str, shape: tuple[int, ...], names: Any = None) -> tuple[int, ...]:
    """Return the stored axes that are (z, y, x) or (c, z, y, x).

    Without names of the axes that say otherwise, the last three are z, y and x.

    Raises
    ------
    ValueError
        If there are no three axes of space, or another axis than one of channels is longer than 1.
    """
    try:
        names = [_text(each).lower().removesuffix("^") for each in names]
    except TypeError:  # no names
        names = []
    known = len(names) == len(shape) and set("zyx") <= set(names)
    space = [names.index(axis) for axis in "zyx"] if known else list(range(len(shape)))[-3:]
    others = [axis for axis in range(len(shape)) if axis not in space and shape[axis] > 1]
    time = known and any(names[axis] == "t" for axis in others)
    if len(space) < 3 or len(others) > 1 or time:
        said = f" with the axes ({', '.join(names)})" if names else ""
        raise ValueError(
            f"{name} must have the axes (z, y, x) or (c, z, y, x), got shape {tuple(shape)}{said}"
        )
    return (*others, *space)


def chosen_place(
    name: str, found: Placement, resolution: Sequence[float] | None
) -> tuple[Lengths, Lengths]:
    """Return resolution and offset; a resolution that the user names wins, and says so."""
    if resolution is not None:
        wanted = _lengths(f"{name}: the resolution", resolution, positive=True)
        if found.resolution is not None and not np.allclose(wanted, found.resolution, rtol=1e-6):
            logger.warning(
                "%s: voxels are taken to be %s nm, but its metadata say %s",
                *(name, wanted, found.resolution),
            )
        found = found._replace(resolution=wanted)
    if found.resolution is None:
        raise ValueError(
            f"{name} lacks the attribute resolution, the size of a voxel in nm; name it "
            "(--resolution Z Y X)"
        )
    return found.resolution, found.offset or (0.0, 0.0, 0.0)


def _lengths(what: str, values: Any, units: Any = None, *, positive: bool = False) -> Lengths:
    """Return three lengths in nm."""
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    good = numbers.shape == (3,) and np.isfinite(numbers).all()
    if not good or (positive and (numbers <= 0).any()):
        shown = values.tolist() if hasattr(values, "tolist") else values
        kind = "positive numbers" if positive else "numbers"
        raise ValueError(f"{what} must be 3 {kind} (z, y, x), got {shown!r}")
    units = [units] * 3 if units is None or isinstance(units, str | bytes) else list(units)[-3:]
    if len(units) != 3:
        raise ValueError(f"{what} must have one unit or 3, got {units}")
    return tuple((numbers * [_nanometres(what, unit) for unit in units]).tolist())


def _one_each(values: Any, axes: Sequence[str]) -> np.ndarray:
    numbers = np.array(values, dtype=float)
    if numbers.shape != (len(axes),):
        raise ValueError(f"{values!r} for {len(axes)} axes")
    return numbers


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _nanometres(what: str, unit: Any) -> float:
    key = _text(unit).strip().lower().replace("metre", "meter")
    factor = UNITS.get(key, UNITS.get(key.removesuffix("s")))
    if factor is None:
        raise ValueError(f"{what} is in {unit!r}, which is no unit of length that is known here")
    return factor
