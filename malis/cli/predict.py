"""``python -m malis predict``."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from cremi_eval.io import CremiFile
from malis.cli import files
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.sections import PredictedSections
from malis.inference.tiles import predict
from malis.inference.views import predict_views
from malis.scale import predict_volume
from malis.scale.volumes import StoredArray, in_trained_range, offsets_in_volume
from malis.training.checkpoint import Model, load_model
from malis.training.loop import choose_device

HELP = """\
predict the affinities of a raw volume

IN is a raw volume: a CREMI file or a Zarr folder. OUT gets the affinities, float32 (c, z, y, x) in
[0, 1], with size and place of the voxels: dataset "affinities" of an HDF5 file, or of a Zarr folder
if OUT ends in .zarr. Channel c joins voxel v and v + offsets[c]; the offsets are an attribute.

examples:
  python -m malis predict data/synthetic.hdf affinities.hdf --checkpoint my.model --views
  python -m malis predict fly.zarr affinities.zarr --checkpoint my.model --workers 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("input", metavar="IN", help="raw volume")
    parser.add_argument("output", metavar="OUT", type=Path, help=".hdf or .zarr for affinities")
    files.add_volume_arguments(parser, needs_network=True)


def run(options: argparse.Namespace) -> None:
    """Predict, in one piece or block by block."""
    source = files.open_part(options.input, "raw", options.resolution)
    model = load_model(options.checkpoint)
    source = in_trained_range(source, model.card, options.range)
    blocks = files.block_settings(options)
    if blocks is not None:
        predict_volume(source, options.output, options.checkpoint, **blocks)
    else:
        files.check_output(options.output, options.overwrite, [source.path, options.checkpoint])
        with CremiFile(options.output, "w", overwrite=options.overwrite) as file:
            shape = len(model.offsets), *source.shape
            file.reserve(math.prod(shape) * np.dtype(np.float32).itemsize)
            affinities = file.h5file.create_dataset("affinities", shape, np.float32)
            affinities.attrs["resolution"] = source.resolution
            affinities.attrs["offset"] = source.offset
            affinities.attrs["offsets"] = offsets_in_volume(model.offsets)
            raw, settings = stack_neighbours(source, neighbours_of(model.network)), how(options)
            if options.views:
                affinities[...] = predict_views(model.network, raw, model.offsets, **settings)
            else:
                predict(model.network, raw, out=affinities, **settings)
    print(f"{options.output}: affinities of {source.name}")


def predicted(source: StoredArray, model: Model, options: argparse.Namespace) -> Any:
    """Predict a volume for segmentation: in 2D section by section, whenever one is wanted."""
    raw, settings = stack_neighbours(source, neighbours_of(model.network)), how(options)
    offsets = model.offsets if options.views else None
    if model.network.ndim == 2:
        return PredictedSections(model.network, raw, offsets, **settings)
    if options.views:
        return predict_views(model.network, raw, offsets, **settings)
    return predict(model.network, raw, **settings)


def how(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `malis.inference.predict` takes of the options."""
    settings = {"device": choose_device()} | files.given(options, files.OF_NETWORK)
    return settings | {"progress": not options.quiet}
