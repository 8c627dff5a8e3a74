"""Bring other volumes into CREMI layout: python -m data.convert RAW LABELS OUT.hdf --resolution ...

RAW and LABELS, which may be left out, are each a TIFF stack, a folder of images (in the order of
their names), a .npy file, or an HDF5 dataset given as FILE.h5:DATASET. Grey values other than whole
numbers from 0 to 255 need --range. With --cells, LABELS is a mask of cell interiors, as in the ISBI
2012 challenge: every connected piece of it in a section becomes a neuron of its own, the rest is 0.
An HDF5 dataset that has a table `transforms` beside it, as FlyEM's files have, is mapped through
that table.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from skimage.io import imread
from skimage.measure import label as connected_components

from cremi_eval import CremiFile, Volume
from cremi_eval.atomic import signals_raise
from cremi_eval.datasets import check_filters
from malis.inference.grey_values import resolve_range, to_bytes
from malis.scale.datasets import hdf5_file

TIFF = (".tif", ".tiff")


def read_stack(source: str | Path) -> NDArray:
    """Read an image stack.

    Parameters
    ----------
    source : str or Path
        A TIFF or .npy file, a folder of images, or FILE.h5:DATASET.

    Returns
    -------
    (sections, height, width) array
        A single picture becomes one section.

    Raises
    ------
    OSError
        If it does not exist or cannot be read.
    ValueError
        If it is not a stack of gray pictures of one size, or of an unknown kind.
    """
    path, dataset = _split(source)
    if dataset:
        stack = _read_hdf5(path, dataset)
    elif path.is_dir():
        pictures = [_read_picture(picture) for picture in _pictures(path)]
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError(f"{path}: the pictures are of different sizes")
        stack = np.stack(pictures)
    elif not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    elif path.suffix == ".npy":
        stack = np.load(path)
    elif path.suffix.lower() in TIFF:
        stack = _read_tiff(path)
    else:
        raise ValueError(f"{path} is no TIFF, .npy, folder of images, or FILE.h5:DATASET")
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3:
        raise ValueError(f"{source} must hold gray pictures (z, y, x), got shape {stack.shape}")
    return stack


def _split(source: str | Path) -> tuple[Path, str]:
    """Take FILE.h5:DATASET apart; the dataset is empty where none is named."""
    file, _, dataset = str(source).rpartition(":")
    named = dataset and re.search(r"\.(h5|hdf5?)$", file)
    return (Path(file), dataset) if named else (Path(source), "")


def _pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder, numbers in names in their numerical order."""
    pictures = [p for p in folder.iterdir() if p.suffix.lower() in (".png", *TIFF)]
    if not pictures:
        raise FileNotFoundError(f"{folder} holds no .png or .tif")
    return sorted(
        pictures, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)]
    )


def _read_picture(path: Path) -> NDArray:
    return np.squeeze(_read_tiff(path)) if path.suffix.lower() in TIFF else imread(path)


def _read_tiff(path: Path) -> NDArray:
    """Read the sections of a TIFF: its axis before y and x, whatever its name."""
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ValueError(f"{path}: the pictures are of different sizes")
        series = file.series[0]
        if not series.axes.endswith("YX"):  # S behind them: red, green and blue of every pixel
            raise ValueError(
                f"{path} must hold gray pictures (z, y, x), got shape {series.shape} with the "
                f"axes {series.axes}"
            )
        try:
            stack = series.asarray()
        except ValueError as error:  # a compression for which tifffile needs another package
            stack = _read_pages(path, series.dtype)
            if stack is None:
                raise ValueError(f"{path}: {error}") from error
        single = [i for i, n in enumerate(series.shape[:-2]) if n == 1]
        return stack.reshape(series.shape).squeeze(tuple(single))


def _read_pages(path: Path, dtype: np.dtype) -> NDArray | None:
    """Read the pages of a TIFF by Pillow; None if it does not know their type."""
    with Image.open(path) as file:
        pages = np.stack([np.asarray(page) for page in ImageSequence.Iterator(file)])
    return pages.view(dtype) if pages.dtype.itemsize == dtype.itemsize else None


def _read_hdf5(path: Path, name: str) -> NDArray:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with hdf5_file(str(path)) as file:
        if not isinstance(file.get(name), h5py.Dataset):
            raise ValueError(f"{path} has no dataset {name}")
        check_filters(f"{path}:{name}", file[name])
        stack = file[name][...]
        if "transforms" not in file:
            return stack
        supervoxels, bodies = file["transforms"][...].T
    order = np.argsort(supervoxels)
    place = np.searchsorted(supervoxels[order], stack).clip(max=len(order) - 1)
    if not np.array_equal(supervoxels[order][place], stack):
        raise ValueError(f"{path}: transforms does not name every label of {name}")
    return bodies[order][place]


def label_cells(mask: NDArray) -> NDArray[np.uint64]:
    """Give every cell of a mask a number, section by section.

    Parameters
    ----------
    mask : (sections, height, width) array
        Not 0 inside of cells.

    Returns
    -------
    (sections, height, width) uint64 array
        Ids that are unique over the stack; 0 on membranes.
    """
    labels = np.zeros(mask.shape, np.uint64)
    count = 0
    for section, inside in zip(labels, mask != 0, strict=True):
        pieces = connected_components(inside, connectivity=1)
        section[inside] = pieces[inside] + count
        count += pieces.max()
    return labels


def convert(
    raw: str | Path,
    labels: str | Path | None,
    output: str | Path,
    resolution: tuple[float, float, float],
    *,
    grey_range: Sequence[float | str] | None = None,
    cells: bool = False,
    sections: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a CREMI file from raw data and, where there are some, labels.

    Parameters
    ----------
    raw, labels : str or Path
        What `read_stack` reads; labels may be None.
    output : str or Path
        The file to write.
    resolution : (float, float, float)
        Voxel size in nm, (z, y, x).
    grey_range : (2,) sequence of float or str, optional
        Grey values that become 0 and 255, as numbers or as percentiles of the stack ("0.5%",
        "99.5%"). By default raw must be whole numbers from 0 to 255 and stays as it is.
    cells : bool
        Whether `labels` is a mask of cell interiors.
    sections : int, optional
        How many of the first sections are taken; by default all.
    overwrite : bool
        Whether an output that exists may be replaced.

    Raises
    ------
    ValueError
        If the output is an input, the shapes differ, there are fewer sections than asked for, raw
        does not fit into uint8, labels are not whole numbers, or cells are asked for without any.
    OSError
        If something cannot be read or written, or the output exists.
    """
    if cells and labels is None:
        raise ValueError("cells says what labels are, but there are none")
    sources = [raw] if labels is None else [raw, labels]
    for source in sources:
        file = _split(source)[0]
        if Path(output).exists() and file.exists() and file.samefile(output):
            raise ValueError(f"{output} is an input: take another name for the output")
    picture = read_stack(raw)
    numbers = None if labels is None else read_stack(labels)
    if numbers is not None and picture.shape != numbers.shape:
        raise ValueError(
            f"labels must have shape {picture.shape} like the raw data, got {numbers.shape}"
        )
    if sections is not None and not 0 < sections <= len(picture):
        raise ValueError(f"sections must be from 1 to {len(picture)}, got {sections}")
    picture = picture[:sections]
    if grey_range is not None:
        picture = to_bytes(picture, resolve_range(picture, grey_range))
    elif picture.size and (picture.min() < 0 or picture.max() > 255 or (picture % 1).any()):
        raise ValueError(
            f"raw must hold whole numbers from 0 to 255, got {picture.dtype} from "
            f"{picture.min():g} to {picture.max():g}; say which are black and white "
            "(--range LOW HIGH)"
        )
    comment = "converted from " + " and ".join(Path(source).name for source in sources)
    with CremiFile(output, "w", overwrite=overwrite) as file:
        file.write_raw(Volume(picture, resolution, comment=comment))
        if numbers is not None:
            ids = label_cells(numbers[:sections]) if cells else numbers[:sections]
            file.write_neuron_ids(Volume(ids, resolution, comment=comment))


def main(arguments: list[str] | None = None) -> int:
    """Convert what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("raw")
    parser.add_argument("labels", nargs="?")
    parser.add_argument("output", type=Path)
    parser.add_argument("--resolution", type=float, nargs=3, required=True, metavar=("Z", "Y", "X"))
    parser.add_argument(
        "--range",
        dest="grey_range",
        nargs=2,
        metavar=("LOW", "HIGH"),
        help='grey values that become 0 and 255, or percentiles such as "0.5%%" "99.5%%"',
    )
    parser.add_argument("--cells", action="store_true", help="LABELS is a mask of cell interiors")
    parser.add_argument("--sections", type=int, metavar="N", help="take the first N sections only")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    options = parser.parse_args(arguments)
    try:
        with signals_raise():
            convert(**vars(options))
    except (OSError, ValueError, KeyboardInterrupt) as error:
        print(f"error: {str(error) or 'interrupted'}", file=sys.stderr)
        return 1
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
