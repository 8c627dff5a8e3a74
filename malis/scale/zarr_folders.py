"""Volumes in Zarr: plain arrays, OME-Zarr images of version 0.1 to 0.5, and levels of them."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from malis._checks import extra_package
from malis.scale.datasets import Found, choose, described

logger = logging.getLogger(__name__)

LEAST_LABEL = 4  # bytes; an image of fewer, without a word that it is labels, holds grey values
PROGRESS = "progress"  # a group with notes of `malis.scale`, no volumes


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
    name = f"{path}/{chosen}".rstrip("/")
    if isinstance(node, zarr.Array):
        return Found(path, chosen, node, *_image_of_level(path, root, chosen))
    image = _image(name, node)
    level = _levels(name, image)[0]
    there = _level_there(name, node, image, level)
    return Found(path, f"{chosen}/{there}".strip("/"), node[there], image, level)


def zarr_root(path: str) -> Any:
    """Open the group or array at a path, a folder, a zip file or a URL.

    Raises
    ------
    ValueError
        If there is none, or it cannot be opened.
    """
    zarr = extra_package("zarr", "scale")
    if "://" not in path and _is_n5(Path(path)):
        raise ValueError(
            f"{path} is N5, which the package zarr no longer reads; convert it to Zarr"
        )
    try:
        is_zip = "://" not in path and Path(path).is_file()
        return zarr.open(zarr.storage.ZipStore(path, mode="r") if is_zip else path, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is no Zarr volume: {_one_line(error)}") from error
    except Exception as error:  # metadata of any shape, stores of any kind
        raise ValueError(
            f"{path} is no Zarr volume that can be opened: {_one_line(error)}"
        ) from error


def _is_n5(folder: Path) -> bool:
    of_zarr = any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
    return (folder / "attributes.json").is_file() and not of_zarr


def _choose_in(path: str, root: Any, dataset: str | None, kind: str | None) -> str:
    """Return the path of an image or array in a group; empty for the group itself."""
    zarr = extra_package("zarr", "scale")

    def is_volume(name: str) -> bool:
        node = root.get(name)
        return isinstance(node, zarr.Array) or (node is not None and _is_image(node))

    def volumes() -> dict[str, str]:
        try:
            nodes = dict(root.members(max_depth=None))
        except Exception as error:  # what the web raises where nothing can be listed
            raise FileNotFoundError(
                f"{path} has no {dataset or kind or 'volume'} under the names that were tried, and "
                f"cannot be listed: {_one_line(error)}"
            ) from error
        images = {name: node for name, node in nodes.items() if _is_image(node)}
        levels = {name: _finest(name, node) for name, node in images.items()}
        arrays = {
            name: node
            for name, node in nodes.items()
            if isinstance(node, zarr.Array)
            and not any(name.startswith(f"{image}/") for image in images)
            and (not _is_image(root) or "/" in name)
        }
        listed = {name: node for name, node in (levels | arrays).items() if node is not None}
        return {n: described(a) for n, a in listed.items() if not n.startswith(f"{PROGRESS}/")}

    if dataset is None and _is_image(root):
        if kind != "labels" or "image-label" in _ome(root):
            return ""
        labels = {n: said for n, said in volumes().items() if n.startswith("labels/")}
        if len(labels) == 1:
            return next(iter(labels))
        finest = _finest(path, root)
        if labels or (finest is not None and finest.dtype.itemsize < LEAST_LABEL):
            image = (
                {} if finest is None else {_levels(path, _image(path, root))[0]: described(finest)}
            )
            return choose(path, None, kind, lambda _: False, lambda: labels | image)
        return ""
    return choose(path, dataset, kind, is_volume, volumes)


def _ome(group: Any) -> dict[str, Any]:
    """Return the OME metadata of a group, of version 0.5 or earlier."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _is_image(node: Any) -> bool:
    return hasattr(node, "members") and "multiscales" in _ome(node)


def _image(name: str, group: Any) -> Any:
    """Return the first image that a group describes."""
    images = _ome(group)["multiscales"]
    if not isinstance(images, list) or not images:
        raise ValueError(f"{name} has multiscales metadata that cannot be read: {images!r:.80}")
    return images[0]


def _levels(name: str, image: Any) -> list[str]:
    """Return the paths of an image's levels, the finest first."""
    try:
        levels = [str(each["path"]) for each in image["datasets"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} has multiscales metadata that cannot be read: {error!r}"
        ) from error
    if not levels:
        raise ValueError(f"{name} has multiscales metadata that cannot be read: no level")
    return levels


def _level_there(name: str, group: Any, image: Any, level: str) -> str:
    """Return a level's path, or of an image with one level that of its only array."""
    arrays = [path for path, _ in group.arrays()]
    if isinstance(group.get(level), extra_package("zarr", "scale").Array):
        return level
    if len(arrays) == len(_levels(name, image)) == 1:
        logger.warning("%s names the level %r, but holds %r, which is taken", name, level, *arrays)
        return arrays[0]
    raise ValueError(
        f"{name} names the level {level!r}, but holds {', '.join(sorted(arrays)) or 'no array'}"
    )


def _finest(name: str, group: Any) -> Any:
    """Return the finest array of an image, None if the image cannot be read."""
    try:
        return group.get(_levels(name, _image(name, group))[0])
    except ValueError:
        return None


def _image_of_level(path: str, root: Any, chosen: str) -> tuple[Any, str]:
    """Return the image of which an array is a level, and its path there; (None, "") if of none."""
    parts = chosen.split("/")
    for depth in reversed(range(len(parts))):
        group = root["/".join(parts[:depth])] if depth else root
        level = "/".join(parts[depth:])
        if _is_image(group):
            image = _image(path, group)
            return (image, level) if level in _levels(path, image) else (None, "")
    return None, ""


def _is_level(path: str) -> bool:
    """Tell whether an array is a level of the image that the folder around it is."""
    folder = Path(path).parent
    with contextlib.suppress(ValueError):
        if "://" not in path and Path(path).is_dir():
            group = zarr_root(str(folder))
            return _is_image(group) and Path(path).name in _levels(path, _image(path, group))
    return False


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
