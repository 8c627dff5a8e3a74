"""``python -m malis evaluate``."""

import argparse
import json
from pathlib import Path
from typing import Any

from cremi_eval import Volume
from cremi_eval.__main__ import SCORE_NAMES
from cremi_eval.evaluation import NeuronIds, mean_of_sections
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to FILE, too")
    parser.add_argument(
        "--per-section", action="store_true", help="score the sections one by one, too"
    )
    parser.add_argument(
        "--border",
        type=float,
        default=0.0,
        metavar="NM",
        help="ignore voxels within NM nanometres of a border of the true objects (default: none)",
    )
    parser.add_argument(
        "--ignore",
        type=int,
        nargs="+",
        default=[],
        metavar="ID",
        help="ignore these true ids, e.g. 0 where it means membrane",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(options: argparse.Namespace) -> None:
    """Score, print, and write JSON."""
    if options.json:
        inputs = [name.partition("::")[0] for name in (options.segmentation, options.truth)]
        files.check_output(options.json, options.overwrite, inputs)
    segmentation, truth = (
        Volume(part, part.resolution, part.offset)
        for part in (
            files.open_part(options.segmentation, "labels"),
            files.open_part(options.truth, "labels"),
        )
    )
    evaluation = NeuronIds(truth, options.border, ignore_groundtruth=options.ignore)
    try:
        results: dict[str, Any] = {
            "segmentation": segmentation.data.name,
            "truth": truth.data.name,
            "border_threshold_nm": options.border,
            "ignored_ids": list(evaluation.ignored_ids),
            "whole_volume": evaluation.whole_volume_scores(segmentation).as_dict(),
        }
        if options.per_section:
            sections = evaluation.section_scores(segmentation)
            results["mean_of_sections"] = mean_of_sections(sections).as_dict()
            results["sections"] = [scores and scores.as_dict() for scores in sections]
    except ZeroDivisionError:
        raise ValueError(f"every voxel of {truth.data.name} is ignored") from None
    if options.json:
        files.write_text(options.json, json.dumps(results, indent=1, allow_nan=False) + "\n")
    print(_table("whole volume", results["whole_volume"]))
    if options.per_section:
        print(_table("mean of the sections, scored one by one", results["mean_of_sections"]))


def _table(title: str, scores: dict[str, float]) -> str:
    rows = [f"  {name:<20}{scores[key]:>10.4f}" for key, name in SCORE_NAMES.items()]
    return "\n".join([title, *rows])
