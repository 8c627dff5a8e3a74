"""Files that commands read and write, and the options that say how."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from malis.scale.volumes import StoredArray, open_volume

HDF5 = (".hdf", ".hdf5", ".h5")
OF_BLOCKS, OF_NETWORK = ("block", "workers", "memory_per_worker", "scheduler"), ("tile", "device")


def open_part(path: str, part: str, resolution: Sequence[float] | None = None) -> StoredArray:
    """Open the raw data, labels or affinities of a file, PATH or PATH::DATASET.

    `part` and `resolution` are ``kind`` and ``resolution`` of `malis.scale.volumes.open_volume`.
    """
    path, _, dataset = path.partition("::")
    return open_volume(path, dataset or None, kind=part, resolution=resolution)


def check_output(path: Path, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse, before any work, an output that exists, is read, or has no folder to lie in.

    Inputs that are None, or lie in the web, are passed over.
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


def add_resolution_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for files that do not name the size of their voxels."""
    parser.add_argument(
        "--resolution",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="size of a voxel in nm, for files that do not name it",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that write."""
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--quiet", action="store_true", help="show errors only, no progress")


def add_volume_arguments(parser: argparse.ArgumentParser, *, needs_network: bool) -> None:
    """Add the options of commands that turn one volume into another, by blocks if it is large."""
    add_resolution_argument(parser)
    parser.add_argument(
        "--range",
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="grey values that are black and white, as numbers or as percentiles (0.5%% 99.5%%); "
        "by default what the network was trained with, or else uint8",
    )
    parser.add_argument(
        "--checkpoint",
        required=needs_network,
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
    add_output_arguments(parser)
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


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return those of some options that the user gave."""
    values = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if len(values.get("tile", ())) == 1:  # one number counts for all axes
        (values["tile"],) = values["tile"]
    return values


def block_settings(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return what `malis.scale` takes of the options if OUT is Zarr, None if it is HDF5.

    Raises
    ------
    ValueError
        If OUT is neither, or is HDF5 and there are options for blocks; or of ``--views``: a
        mirrored block does not lie on the network's strides.
    """
    output, of_blocks = options.output, given(options, OF_BLOCKS)
    if output.suffix != ".zarr":
        if output.suffix not in HDF5:
            raise ValueError(f"{output} should end in .zarr or in {', '.join(HDF5)}")
        if of_blocks:
            name = next(iter(of_blocks)).replace("_", "-")
            raise ValueError(
                f"--{name} is for blocks, which are written to Zarr: {output} should end in .zarr"
            )
        return None
    if options.views:
        raise ValueError("--views is not for blocks: it averages over the volume as a whole")
    settings = of_blocks | given(options, OF_NETWORK)
    return settings | {"overwrite": options.overwrite, "progress": not options.quiet}
