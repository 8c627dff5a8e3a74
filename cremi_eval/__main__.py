"""Score a submission: ``python -m cremi_eval SUBMISSION.hdf TRUTH.hdf``."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .evaluation import Clefts, NeuronIds, SynapticPartners, mean_of_sections
from .io import CremiFile

CLEFT_THRESHOLD = 200.0  # nm, as in the challenge
SCORE_NAMES = {
    "voi_split": "VOI split",
    "voi_merge": "VOI merge",
    "voi_sum": "VOI sum",
    "adapted_rand_error": "adapted Rand error",
    "cremi_score": "CREMI score",
}


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
        if options.json and not options.json.parent.is_dir():
            raise FileNotFoundError(f"cannot write {options.json}: its folder does not exist")
        if options.json and options.json.exists():
            inputs = [path for path in (options.submission, options.truth) if path.exists()]
            if any(options.json.samefile(path) for path in inputs):
                raise FileExistsError(f"{options.json} is an input: take another name for FILE")
            if not options.overwrite:
                raise FileExistsError(f"{options.json} exists; --overwrite replaces it")
        results = score_files(
            options.submission,
            options.truth,
            border_threshold=options.border,
            per_section=options.per_section,
            ignore_groundtruth=options.ignore,
        )
        if options.json:
            _write_json(options.json, results)
    except (OSError, KeyError) as error:  # these name the file
        print(f"cremi_eval: {error}", file=sys.stderr)
        return 1
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        print(f"cremi_eval: {options.submission}, {options.truth}: {error}", file=sys.stderr)
        return 1
    print(_table(results))
    return 0


def score_files(
    submission: str | Path,
    truth: str | Path,
    *,
    border_threshold: float | None = None,
    per_section: bool = False,
    ignore_groundtruth: Sequence[int] = (),
) -> dict[str, Any]:
    """Score everything that two CREMI files have in common.

    Parameters
    ----------
    submission, truth : str or Path
        The files.
    border_threshold : float, optional
        Ignore voxels this near to a border of the true neurons, in nm.
    per_section : bool
        Score the sections one by one, too.
    ignore_groundtruth : sequence of int
        Neuron ids of the truth to ignore besides 2^64-1.

    Returns
    -------
    dict
        "neuron_ids", "synaptic_clefts" and "synaptic_partners", as far as both files have them,
        and the names of the files. Fit for JSON but for infinite distances and NaN.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If the files have nothing in common, or disagree in shape or resolution.
    """
    results: dict[str, Any] = {"submission": str(submission), "truth": str(truth)}
    with CremiFile(submission, "r") as ours, CremiFile(truth, "r") as theirs:
        if ours.has_neuron_ids() and theirs.has_neuron_ids():
            evaluation = NeuronIds(
                theirs.read_neuron_ids(), border_threshold, ignore_groundtruth=ignore_groundtruth
            )
            results["neuron_ids"] = _neuron_scores(evaluation, ours, per_section)
        if ours.has_clefts() and theirs.has_clefts():
            results["synaptic_clefts"] = _cleft_scores(
                Clefts(ours.read_clefts(), theirs.read_clefts())
            )
        found, true = ours.read_annotations(), theirs.read_annotations()
        both = ours.has_annotations() and theirs.has_annotations()
        any_partner = found.pre_post_partners or true.pre_post_partners
        if both and any_partner and theirs.has_neuron_ids():
            statistics = SynapticPartners().fscore(
                found, true, theirs.read_neuron_ids(), all_stats=True
            )
            results["synaptic_partners"] = statistics._asdict()
    if len(results) == 2:
        raise ValueError("the files share neither neuron ids nor clefts nor synaptic partners")
    return results


def _neuron_scores(evaluation: NeuronIds, file: CremiFile, per_section: bool) -> dict[str, Any]:
    segmentation = file.read_neuron_ids()
    result: dict[str, Any] = {
        "border_threshold_nm": evaluation.border_threshold or 0.0,
        "ignored_ids": list(evaluation.ignored_ids),
        "whole_volume": evaluation.whole_volume_scores(segmentation).as_dict(),
    }
    if per_section:
        sections = evaluation.section_scores(segmentation)
        result["mean_of_sections"] = mean_of_sections(sections).as_dict()
        result["sections"] = [scores and scores.as_dict() for scores in sections]
    return result


def _cleft_scores(clefts: Clefts) -> dict[str, Any]:
    return {
        "threshold_nm": CLEFT_THRESHOLD,
        "false_positives": clefts.count_false_positives(CLEFT_THRESHOLD),
        "false_negatives": clefts.count_false_negatives(CLEFT_THRESHOLD),
        "false_positive_distances_nm": _or_none(clefts.acc_false_positives),
        "false_negative_distances_nm": _or_none(clefts.acc_false_negatives),
    }


def _or_none(summary: Callable[[], dict[str, float]]) -> dict[str, float] | None:
    try:
        return summary()
    except ValueError:  # there is no cleft to summarise
        return None


def _table(results: dict[str, Any]) -> str:
    """Lay the results out for a person."""
    blocks = []
    if neurons := results.get("neuron_ids"):
        border = neurons["border_threshold_nm"]
        ignoring = f"ignoring {border:g} nm around borders" if border else "borders included"
        title = f"Neuron ids, whole volume at once, {ignoring}"
        blocks.append(_block(title, _named_scores(neurons["whole_volume"])))
        if "sections" in neurons:
            scored = sum(section is not None for section in neurons["sections"])
            title = f"Neuron ids, mean of {scored} sections scored one by one, {ignoring}"
            blocks.append(_block(title, _named_scores(neurons["mean_of_sections"])))
    if clefts := results.get("synaptic_clefts"):
        rows: dict[str, float | None] = {}
        for name in ("false positive", "false negative"):
            key = name.replace(" ", "_")
            rows[f"{name}s beyond {clefts['threshold_nm']:g} nm"] = clefts[f"{key}s"]
            distances = clefts[f"{key}_distances_nm"]
            rows[f"{name} distance, mean (nm)"] = distances and distances["mean"]
        blocks.append(_block("Synaptic clefts (voxels)", rows))
    if partners := results.get("synaptic_partners"):
        names = {"fscore": "F-score", "fp": "false positives", "fn": "false negatives"}
        rows = {names.get(k, k): v for k, v in partners.items() if k != "matches"}
        blocks.append(_block("Synaptic partners", rows))
    return "\n\n".join(blocks)


def _named_scores(scores: dict[str, float]) -> dict[str, float]:
    return {name: scores[key] for key, name in SCORE_NAMES.items()}


def _block(title: str, rows: dict[str, Any]) -> str:
    def text(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:d}" if isinstance(value, int) else f"{value:.4f}"

    lines = [f"  {name:<36}{text(value):>12}" for name, value in rows.items()]
    return "\n".join([title, *lines])


def _write_json(path: Path, results: dict[str, Any]) -> None:
    text = json.dumps(_finite(results), indent=1, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    temporary.replace(path)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cremi_eval",
        description="Score a CREMI file against another one that holds the ground truth.",
    )
    parser.add_argument("submission", type=Path, help="CREMI file to score")
    parser.add_argument("truth", type=Path, help="CREMI file with the ground truth")
    parser.add_argument(
        "--per-section", action="store_true", help="score the sections one by one, too"
    )
    parser.add_argument(
        "--border",
        type=float,
        default=0.0,
        metavar="NM",
        help="ignore voxels within NM nanometres of a border of the true neurons (default: none)",
    )
    parser.add_argument(
        "--ignore",
        type=int,
        nargs="+",
        default=[],
        metavar="ID",
        help="ignore these true neuron ids, e.g. 0 where it means membrane; 2^64-1 always is",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to FILE, too")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    return parser


if __name__ == "__main__":
    sys.exit(main())
