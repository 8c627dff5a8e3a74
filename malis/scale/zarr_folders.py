"""Volumes in Zarr: plain arrays, OME-Zarr images of version 0.1 to 0.5, and levels of them."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from malis._checks import extra_package
from malis.scale.datasets import Found, choose

logger = logging.getLogger(__name__)

LEAST_LABEL = 4  # bytes; an image of fewer, without a word that it is labels, holds grey values


def find_in_zarr(path: str, dataset: str | None, kind: str | None) -> Found:
    """Return the array that is meant: of an image, its finest level.

    Raises
    ------
    FileNotFoundError, ValueError
        As `malis.scale.datasets.choose`, and if it is no Zarr or metadata cannot be read.
    """
    zarr = extra_package("zarr", "scale")
    root = zarr_root(path)
    if isinstance(root, zarr.Array):
        if dataset:
            raise FileNotFoundError(f"{path} is a single volume and has no dataset {dataset!r}")
        if kind == "labels" and root.dtype.itemsize < LEAST_LABEL:
            logger.warning("%s holds %s, which is taken as labels", path, root.dtype)
        folder, name = str(Path(path).parent), Path(path).name
        return find_in_zarr(folder, name, kind) if _is_level(path) else Found(path, "", root)
    chosen = _choose_in(path, root, dataset, kind)
    node = root[chosen] if chosen else root
    if isinstance(node, zarr.Array):
        return Found(path, chosen, node, *_image_of_level(path, root, chosen))
    name = f"{path}/{chosen}".rstrip("/")
    image, levels = _image(name, node)
    there = _level_there(name, node, levels)
    return Found(path, f"{chosen}/{there}".strip("/"), node[there], image, levels[0])


def zarr_root(path: str) -> Any:
    """Open the group or array at a path, a folder, a zip file or a URL.

    Raises
    ------
    ValueError
        If there is none, or it cannot be opened.
    """
    zarr = extra_package("zarr", "scale")
    here = "://" not in path
    of_zarr = any((Path(path) / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
    if here and not of_zarr and (Path(path) / "attributes.json").is_file():
        raise ValueError(
            f"{path} is N5, which the package zarr no longer reads; convert it to Zarr"
        )
    try:
        is_zip = here and Path(path).is_file()
        return zarr.open(zarr.storage.ZipStore(path, mode="r") if is_zip else path, mode="r")
    except Exception as error:  # nothing there, metadata of any shape, stores of any kind
        raise ValueError(
            f"{path} is no Zarr volume that can be opened: {_one_line(error)}"
        ) from error


def _choose_in(path: str, root: Any, dataset: str | None, kind: str | None) -> str:
    """Return the path of an image or array in a group; empty for the group itself."""
    zarr = extra_package("zarr", "scale")

    def is_volume(name: str) -> bool:
        node = root.get(name)
        return isinstance(node, zarr.Array) or _is_image(node)

    def volumes() -> dict[str, str]:
        try:
            nodes = dict(root.members(max_depth=None))
        except Exception as error:  # what the web raises where nothing can be listed
            raise FileNotFoundError(
                f"{path} has no {dataset or kind or 'volume'} under the names that were tried, and "
                f"cannot be listed: {_one_line(error)}"
            ) from error
        images = {name: node for name, node in nodes.items() if _is_image(node)}
        found = {n: array for n, node in images.items() for array in _finest(n, node).values()}
        for name, node in nodes.items():
            level = any(name.startswith(f"{image}/") for image in images)
            level |= _is_image(root) and "/" not in name
            if isinstance(node, zarr.Array) and not level:
                found[name] = node
        return {name: _described(array) for name, array in found.items()}

    if dataset is not None or not _is_image(root):
        return choose(path, dataset, kind, is_volume, volumes)
    if kind != "labels" or "image-label" in _ome(root):
        return ""
    labels = {name: said for name, said in volumes().items() if name.startswith("labels/")}
    if len(labels) == 1:
        return next(iter(labels))
    own = _finest(path, root)
    if labels or any(array.dtype.itemsize < LEAST_LABEL for array in own.values()):
        labels |= {name: _described(array) for name, array in own.items()}
        return choose(path, None, kind, lambda _: False, lambda: labels)
    return ""


def _described(array: Any) -> str:
    return f"{tuple(array.shape)} {array.dtype}"


def _ome(group: Any) -> dict[str, Any]:
    """Return the OME metadata of a group, of version 0.5 or earlier."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _is_image(node: Any) -> bool:
    return hasattr(node, "members") and "multiscales" in _ome(node)


def _image(name: str, group: Any) -> tuple[Any, list[str]]:
    """Return the first image that a group describes, and its levels' paths, the finest first."""
    images = _ome(group)["multiscales"]
    try:
        levels = [str(each["path"]) for each in images[0]["datasets"]]
    except (KeyError, IndexError, TypeError, AttributeError):
        levels = []
    if not levels:
        raise ValueError(f"{name} has multiscales metadata that cannot be read: {images!r:.80}")
    return images[0], levels


def _level_there(name: str, group: Any, levels: list[str]) -> str:
    """Return the path of the finest level, or of an image with one level that of its only array."""
    arrays = [path for path, _ in group.arrays()]
    if isinstance(group.get(levels[0]), extra_package("zarr", "scale").Array):
        return levels[0]
    if len(arrays) == len(levels) == 1:
        logger.warning(
            "%s names the level %r, but holds %r, which is taken", name, *levels, *arrays
        )
        return arrays[0]
    held = ", ".join(sorted(arrays)) or "no array"
    raise ValueError(f"{name} names the level {levels[0]!r}, but holds {held}")


def _finest(name: str, group: Any) -> dict[str, Any]:
    """Return the finest level of an image by its path; nothing if it cannot be read."""
    with contextlib.suppress(ValueError):
        level = _image(name, group)[1][0]
        return {level: group[level]} if level in group else {}
    return {}


def _image_of_level(path: str, root: Any, chosen: str) -> tuple[Any, str]:
    """Return the image of which an array is a level, and its path there; (None, "") if of none."""
    parts = chosen.split("/")
    for depth in reversed(range(len(parts))):
        group = root["/".join(parts[:depth])] if depth else root
        level = "/".join(parts[depth:])
        if _is_image(group):
            image, levels = _image(path, group)
            return (image, level) if level in levels else (None, "")
    return None, ""


def _is_level(path: str) -> bool:
    """Tell whether an array is a level of the image that the folder around it is."""
    with contextlib.suppress(ValueError):
        if "://" not in path and Path(path).is_dir():
            group = zarr_root(str(Path(path).parent))
            return _is_image(group) and Path(path).name in _image(path, group)[1]
    return False


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
