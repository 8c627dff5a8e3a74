"""``python -m malis evaluate``."""

import argparse

from cremi_eval import Volume
from cremi_eval.command import (
    add_score_arguments,
    check_json,
    neuron_scores,
    neuron_table,
    write_json,
)
from malis.cli import files

HELP = """\
score labels against the ground truth

SEG and TRUTH are labels on one grid, in CREMI files or Zarr folders. Printed are the numbers of the
CREMI challenge: variation of information in bits (split: objects cut apart; merge: objects joined),
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


def run(options: argparse.Namespace) -> None:
    """Score, print, and write JSON."""
    check_json(options, [path.partition("::")[0] for path in (options.segmentation, options.truth)])
    segmentation, truth = (
        Volume(part, part.resolution, part.offset)
        for part in (
            files.open_part(options.segmentation, "labels"),
            files.open_part(options.truth, "labels"),
        )
    )
    try:
        scores = neuron_scores(
            segmentation,
            truth,
            border_threshold=options.border,
            per_section=options.per_section,
            ignore_groundtruth=options.ignore,
        )
    except ZeroDivisionError:
        raise ValueError(f"every voxel of {truth.data.name} is ignored") from None
    if options.json:
        names = {"segmentation": segmentation.data.name, "truth": truth.data.name}
        write_json(options.json, names | scores)
    print(neuron_table(scores))
