"""``python -m malis segment``."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.affinity import nearest_offsets
from malis.cli import files
from malis.cli.predict import predicted
from malis.scale.volumes import in_trained_range, offsets_in_volume
from malis.segmentation import segment
from malis.segmentation.numbering import compact
from malis.training.checkpoint import load_model, validated_inside, validated_threshold

HELP = """\
turn a raw volume, or affinities, into labels

IN is a raw volume together with a network (--checkpoint), or affinities that `malis predict` wrote;
others may also be uint8 up to 255.
OUT gets the labels, uint64 with 0 = nothing, and size and place of the voxels: a CREMI file
("volumes/labels/neuron_ids"), or a Zarr folder ("segmentation") if OUT ends in .zarr.

Fragments are merged while the mean affinity between them is at least the threshold. By default it
is the one that was best on the sections that validated the network. Affinities across sections
merge like those within; without any, the regions of neighbouring sections are linked where they
overlap.

examples:
  python -m malis segment data/synthetic.hdf labels.hdf --checkpoint my.model
  python -m malis segment affinities.hdf labels.hdf --threshold 0.6
  python -m malis segment fly.zarr labels.zarr --checkpoint my.model --block 64 512 512 --workers 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("input", metavar="IN", help="raw volume, or affinities")
    parser.add_argument("output", metavar="OUT", type=Path, help=".hdf or .zarr for labels")
    files.add_resolution_argument(parser)
    files.add_range_argument(parser)
    files.add_model_arguments(parser, required=False)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="affinity in [0, 1] at which merging stops (default: the network's, else 0.5)",
    )
    parser.add_argument(
        "--min-size",
        type=int,
        default=0,
        metavar="N",
        help="set objects of fewer voxels to 0 (not block by block)",
    )
    parser.add_argument(
        "--sections",
        action="store_true",
        help="segment every section on its own: nothing joins or links two of them",
    )
    files.add_output_arguments(parser)
    files.add_block_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Segment, in memory or block by block."""
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold must be an affinity in [0, 1], got {options.threshold}")
    for name in ("views", "tile", "device", "range"):
        if getattr(options, name) and not options.checkpoint:
            raise ValueError(f"--{name} is for the network, but there is no --checkpoint")
    try:
        part = "raw" if options.checkpoint else "affinities"
        source = files.open_part(options.input, part, options.resolution)
    except (FileNotFoundError, ValueError) as error:
        if not options.checkpoint:
            error.add_note("without --checkpoint, IN must hold affinities")
        raise
    model = load_model(options.checkpoint) if options.checkpoint else None
    if model:
        source = in_trained_range(source, model.card, options.range)
    threshold = options.threshold
    if threshold is None:
        threshold = validated_threshold(model.card if model else {}, views=options.views)
    if files.is_blockwise(options):
        if options.min_size:
            raise ValueError("--min-size is not for blocks: an object may lie in many of them")
        _segment_blocks(source, threshold, options)
        print(f"{options.output}: labels of {source.name}, threshold {threshold:.3f}")
        return
    files.check_output(options.output, options.overwrite, [source.path, options.checkpoint])
    if model:
        affinities, offsets = predicted(source, model, options), offsets_in_volume(model.offsets)
    else:
        affinities = _Floats(source)
        offsets = source.attributes.get("offsets", nearest_offsets(3))
    labels = segment(
        affinities,
        np.asarray(offsets),
        threshold=threshold,
        sampling=source.resolution,
        inside=validated_inside(model.card, views=options.views) if model else None,
        sections=options.sections,
        min_size=options.min_size,
    )
    del affinities
    comment = f"malis segment, threshold {threshold:.3f}"
    with CremiFile(options.output, "w", overwrite=options.overwrite) as file:
        file.write_neuron_ids(Volume(labels, source.resolution, source.offset, comment))
    count = len(np.unique(np.concatenate([compact(section)[1] for section in labels])))
    print(f"{options.output}: {count} objects in {source.name}, threshold {threshold:.3f}")


def _segment_blocks(
    source: files.StoredArray, threshold: float, options: argparse.Namespace
) -> None:
    from malis.scale import (  # not everybody has what it needs
        segment_affinities,
        segment_volume,
    )

    settings = files.block_settings(options)
    settings |= {"threshold": threshold, "sections": options.sections}
    if options.checkpoint:
        segment_volume(source, options.output, options.checkpoint, **settings)
    else:
        settings = {key: settings[key] for key in settings if key not in ("tile", "device")}
        segment_affinities(source, options.output, **settings)


class _Floats:
    """Affinities of a file as floating-point numbers, read piece by piece."""

    def __init__(self, source: files.StoredArray) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = np.dtype(np.float32) if source.dtype == np.uint8 else source.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        values = self.source[index]
        return values / np.float32(255) if values.dtype == np.uint8 else values
