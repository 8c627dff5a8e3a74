"""Files that commands read and write."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from malis.scale.volumes import StoredArray, open_volume

HDF5 = (".hdf", ".hdf5", ".h5")


def open_part(path: str, part: str, resolution: Sequence[float] | None = None) -> StoredArray:
    """Open raw data, labels or affinities of a file that may hold all of them.

    Parameters
    ----------
    path : str
        HDF5 file or Zarr folder, or ``path::dataset``.
    part : {"raw", "labels", "affinities"}
        What is wanted, as in `malis.scale.volumes.open_volume`.
    resolution : (3,) sequence of float, optional
        Size of a voxel in nm if the user names it.

    Returns
    -------
    StoredArray

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path, or nothing of that kind.
    ValueError
        If it is no volume, or not one of that kind.
    """
    path, _, dataset = path.partition("::")
    return open_volume(path, dataset or None, kind=part, resolution=resolution)


def add_resolution_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for files that do not name the size of their voxels."""
    parser.add_argument(
        "--resolution",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="size of a voxel in nm, for files that do not name it",
    )


def add_range_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for grey values of another range than 8 bits."""
    parser.add_argument(
        "--range",
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="grey values that are black and white, as numbers or as percentiles (0.5%% 99.5%%); "
        "by default what the network was trained with, or else uint8",
    )


def check_output(path: Path, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse, before any work, an output that exists, is read, or has no folder to lie in.

    Parameters
    ----------
    path : Path
        The output.
    overwrite : bool
        Whether it may exist; not as one of the inputs.
    inputs : iterable of str, Path or None
        Files that are read; those of the web, and None, are passed over.

    Raises
    ------
    FileExistsError, FileNotFoundError, IsADirectoryError
    ValueError
        If the output is an input.
    """
    for name in inputs:
        if name and path.exists() and Path(name).exists() and path.samefile(name):
            raise ValueError(f"{path} is an input: take another name for the output")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; --overwrite replaces it")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: its folder does not exist")


def is_blockwise(options: argparse.Namespace) -> bool:
    """Tell whether blocks are wanted; they are written to Zarr.

    Parameters
    ----------
    options : argparse.Namespace
        With the output and the options of `add_block_arguments`.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If the output is neither HDF5 nor Zarr, or it is HDF5 and there are options for blocks.
    """
    output = options.output
    if output.suffix == ".zarr":
        return True
    if output.suffix not in HDF5:
        raise ValueError(f"{output} should end in .zarr or in {', '.join(HDF5)}")
    if options.block:
        raise ValueError(f"blocks are written to Zarr: {output} should end in .zarr")
    for name in ("workers", "memory_per_worker", "scheduler"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for blocks, which are written to Zarr: {output} "
                "should end in .zarr"
            )
    return False


def add_model_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options of commands that predict."""
    parser.add_argument(
        "--checkpoint",
        required=required,
        metavar="MODEL",
        help="trained network, written by `malis train` or malis.training.checkpoint.save_model",
    )
    parser.add_argument(
        "--tile",
        type=int,
        nargs="+",
        metavar="N",
        help="largest input of the network, one number or one for each of its axes (default: 768 "
        "voxels in 2D, 160 in 3D); smaller needs less memory, more time",
    )
    parser.add_argument(
        "--views",
        action="store_true",
        help="predict the mirrored and transposed volume, too, and average: fewer errors, 8 times "
        "the work in 2D, 16 times in 3D (not block by block)",
    )
    parser.add_argument(
        "--device", metavar="NAME", help='"cpu" or "cuda:0"; by default a GPU if there is one'
    )


def add_block_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of blockwise work, which Dask distributes."""
    group = parser.add_argument_group(
        "volumes larger than memory (OUT ends in .zarr)",
        "Blocks are computed by the workers of a Dask cluster. The same command goes on after\n"
        "an interruption. Needs the extra [scale].",
    )
    group.add_argument(
        "--block",
        type=int,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="voxels of a block (default: 64 512 512)",
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes on this machine (default: 1)"
    )
    group.add_argument(
        "--memory-per-worker", metavar="SIZE", help='limit of each, e.g. "4GB" (default: its share)'
    )
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="cluster that runs already, e.g. tcp://host:8786"
    )


def tile_of(options: argparse.Namespace) -> int | list[int] | None:
    """Return the size of a tile; one number counts for all axes."""
    return options.tile[0] if options.tile and len(options.tile) == 1 else options.tile


def block_settings(options: argparse.Namespace) -> dict[str, object]:
    """Return what `malis.scale` takes of the options of `add_block_arguments`.

    Raises
    ------
    ValueError
        If ``--views`` is among them: a mirrored block does not lie on the network's strides.
    """
    if options.views:
        raise ValueError("--views is not for blocks: it averages over the volume as a whole")
    return ({"block": tuple(options.block)} if options.block else {}) | {
        "workers": 1 if options.workers is None else options.workers,
        "scheduler": options.scheduler,
        "memory_per_worker": options.memory_per_worker,
        "tile": tile_of(options),
        "device": options.device,
        "overwrite": options.overwrite,
        "progress": not options.quiet,
    }


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that write."""
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--quiet", action="store_true", help="show errors only, no progress")
