"""``python -m malis evaluate``."""

import argparse
import logging

from cremi_eval import Volume
from cremi_eval.command import (
    add_score_arguments,
    check_json,
    neuron_scores,
    neuron_table,
    write_json,
)
from cremi_eval.grid import box_of, names_offset
from malis.cli import files

logger = logging.getLogger(__name__)

HELP = """\
score labels against the ground truth

SEG and TRUTH are labels on one grid, in CREMI files or Zarr folders; a SEG that covers a part of
TRUTH, by the offsets of both, is compared with that part. Printed are the numbers of the CREMI
challenge: variation of information in bits (split: objects cut apart; merge: objects joined),
adapted Rand error, and CREMI score, the root of VOI sum times Rand error. 0 is perfect everywhere.
Voxels with the true id 2^64-1 are ignored. `python -m cremi_eval` also scores clefts and partners.

example:
  python -m malis evaluate labels.hdf data/synthetic.hdf --json scores.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("segmentation", metavar="SEG", help="labels to score")
    parser.add_argument("truth", metavar="TRUTH", help="labels that are right")
    add_score_arguments(parser)
    files.add_resolution_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Score, print, and write JSON."""
    paths = options.segmentation, options.truth
    check_json(options, [path.partition("::")[0] for path in paths])
    parts = [files.open_part(path, "labels", options.resolution) for path in paths]
    segmentation, truth = (Volume(part, part.resolution, part.offset) for part in parts)
    names = {"segmentation": segmentation.data.name, "truth": truth.data.name}
    truth = _covered_part(truth, segmentation, names)
    try:
        scores = neuron_scores(
            segmentation,
            truth,
            border_threshold=options.border,
            per_section=options.per_section,
            ignore_groundtruth=options.ignore,
        )
    except ZeroDivisionError:
        raise ValueError(f"every voxel of {names['truth']} is ignored") from None
    if options.json:
        write_json(options.json, names | scores)
    print(neuron_table(scores))


def _covered_part(truth: Volume, segmentation: Volume, names: dict[str, str]) -> Volume:
    """Return what a smaller segmentation covers of the truth; other shapes are refused later."""
    shapes = segmentation.data.shape, truth.data.shape
    if shapes[0] == shapes[1] or any(a > b for a, b in zip(*shapes, strict=True)):
        return truth
    box = box_of(segmentation, truth, (names["segmentation"], names["truth"]))
    if not names_offset(segmentation):
        logger.warning("%s names no offset: it is taken to lie at 0", names["segmentation"])
    part = ", ".join(f"{side.start}:{side.stop}" for side in box)
    logger.info("%s covers [%s] of %s", names["segmentation"], part, names["truth"])
    return Volume(truth.data[box], truth.resolution, segmentation.offset)
