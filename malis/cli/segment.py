"""``python -m malis segment``."""

import argparse
from pathlib import Path

import numpy as np

from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.affinity import nearest_offsets
from malis.cli import files
from malis.cli.predict import predicted
from malis.scale import segment_affinities, segment_volume
from malis.scale.volumes import in_trained_range, offsets_in_volume
from malis.segmentation import segment
from malis.segmentation.numbering import compact
from malis.training.checkpoint import (
    load_model,
    validated_absorb,
    validated_inside,
    validated_threshold,
)

HELP = """\
turn a raw volume, or affinities, into labels

IN is a raw volume together with a network (--checkpoint), or affinities that `malis predict` wrote;
others may also be uint8 up to 255.
OUT gets the labels, uint64 with 0 = nothing, and size and place of the voxels: a CREMI file
("volumes/labels/neuron_ids"), or a Zarr folder ("segmentation") if OUT ends in .zarr.

Fragments are merged while the mean affinity between them is at least the threshold. The default is
the threshold that was best on the sections that validated the network. Affinities across sections
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
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="affinity in [0, 1] at which merging stops (default: the network's, else 0.5)",
    )
    parser.add_argument(
        "--absorb",
        type=int,
        metavar="N",
        help="regions of fewer voxels join a neighbour (default: what the card of the network "
        "says, 0 if nothing or with --sections); sizes are best tried on sections with a truth",
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
    files.add_volume_arguments(parser, needs_network=False)


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
    absorb = options.absorb
    if absorb is None:
        chosen = {"views": options.views, "sections": options.sections}
        absorb = validated_absorb(model.card if model else {}, **chosen)
    blocks = files.block_settings(options)
    if blocks is not None:
        if options.min_size:
            raise ValueError("--min-size is not for blocks: an object may lie in many of them")
        blocks |= {"threshold": threshold, "absorb": absorb, "sections": options.sections}
        if model:
            segment_volume(source, options.output, options.checkpoint, **blocks)
        else:
            segment_affinities(source, options.output, **blocks)
        print(f"{options.output}: labels of {source.name}, threshold {threshold:.3f}")
        return
    files.check_output(options.output, options.overwrite, [source.path, options.checkpoint])
    if model:
        affinities, offsets = predicted(source, model, options), offsets_in_volume(model.offsets)
    else:
        affinities, offsets = source, source.attributes.get("offsets", nearest_offsets(3))
    labels = segment(
        affinities,
        np.asarray(offsets),
        threshold=threshold,
        sampling=source.resolution,
        inside=validated_inside(model.card, views=options.views) if model else None,
        sections=options.sections,
        absorb=absorb,
        min_size=options.min_size,
    )
    del affinities
    comment = f"malis segment, threshold {threshold:.3f}"
    with CremiFile(options.output, "w", overwrite=options.overwrite) as file:
        file.write_neuron_ids(Volume(labels, source.resolution, source.offset, comment))
    count = len(np.unique(np.concatenate([compact(section)[1] for section in labels])))
    print(f"{options.output}: {count} objects in {source.name}, threshold {threshold:.3f}")
