"""Score a submission: ``python -m cremi_eval SUBMISSION.hdf TRUTH.hdf``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .atomic import signals_raise
from .command import add_score_arguments, block, check_json, neuron_table, score_files, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; by default what it was started with.

    Returns
    -------
    int
        0, or 1 if the files cannot be scored; one line on stderr says why.
    """
    options = _parser().parse_args(arguments)
    try:
        check_json(options, [options.submission, options.truth])
        with signals_raise():
            results = score_files(
                options.submission,
                options.truth,
                border_threshold=options.border,
                per_section=options.per_section,
                ignore_groundtruth=options.ignore,
            )
            if options.json:
                write_json(options.json, results)
    except (OSError, KeyError, KeyboardInterrupt) as error:  # these name the file
        print(f"cremi_eval: {str(error) or 'interrupted'}", file=sys.stderr)
        return 1
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        print(f"cremi_eval: {options.submission}, {options.truth}: {error}", file=sys.stderr)
        return 1
    print(_table(results))
    return 0


def _table(results: dict[str, Any]) -> str:
    """Lay the results out for a person."""
    blocks = []
    if neurons := results.get("neuron_ids"):
        blocks.append(neuron_table(neurons))
    if clefts := results.get("synaptic_clefts"):
        rows: dict[str, float | None] = {}
        for name in ("false positive", "false negative"):
            key = name.replace(" ", "_")
            rows[f"{name}s beyond {clefts['threshold_nm']:g} nm"] = clefts[f"{key}s"]
            distances = clefts[f"{key}_distances_nm"]
            rows[f"{name} distance, mean (nm)"] = distances and distances["mean"]
        blocks.append(block("Synaptic clefts (voxels)", rows))
    if partners := results.get("synaptic_partners"):
        names = {"fscore": "F-score", "fp": "false positives", "fn": "false negatives"}
        rows = {names.get(k, k): v for k, v in partners.items() if k != "matches"}
        blocks.append(block("Synaptic partners", rows))
    return "\n\n".join(blocks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cremi_eval",
        description="Score a CREMI file against another one that holds the ground truth.",
    )
    parser.add_argument("submission", type=Path, help="CREMI file to score")
    parser.add_argument("truth", type=Path, help="CREMI file with the ground truth")
    add_score_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
