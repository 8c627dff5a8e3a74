"""What the two commands ``evaluate`` share: options, scores, tables and JSON.

``python -m cremi_eval`` scores all that two CREMI files have in common, and
``python -m malis evaluate`` labels of any file that malis reads.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .evaluation import Clefts, NeuronIds, SynapticPartners, mean_of_sections
from .io import CremiFile
from .volume import Volume

CLEFT_THRESHOLD = 200.0  # nm, as in the challenge
SCORE_NAMES = {
    "voi_split": "VOI split",
    "voi_merge": "VOI merge",
    "voi_sum": "VOI sum",
    "adapted_rand_error": "adapted Rand error",
    "cremi_score": "CREMI score",
}


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how neuron ids are scored, and where the scores go."""
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
        help="ignore these true ids, e.g. 0 where it means membrane; 2^64-1 always is",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def check_json(options: argparse.Namespace, inputs: Iterable[str | Path]) -> None:
    """Refuse, before any work, a file for the scores that cannot or must not be written.

    Parameters
    ----------
    options : argparse.Namespace
        Of `add_score_arguments`.
    inputs : iterable of str or Path
        What is read; it is never replaced.

    Raises
    ------
    FileNotFoundError
        If its folder does not exist.
    FileExistsError
        If it is one of the inputs, or exists and is not to be overwritten.
    """
    path = options.json
    if path and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: its folder does not exist")
    if path and path.exists():
        if any(Path(name).exists() and path.samefile(name) for name in inputs):
            raise FileExistsError(f"{path} is an input: take another name for FILE")
        if not options.overwrite:
            raise FileExistsError(f"{path} exists; --overwrite replaces it")


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write scores to a file, with null for NaN and infinity, which JSON does not have."""
    text = json.dumps(_finite(results), indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
        and the names of the files. Fit for JSON, except for infinite distances and NaN.

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
            results["neuron_ids"] = neuron_scores(
                ours.read_neuron_ids(),
                theirs.read_neuron_ids(),
                border_threshold=border_threshold,
                per_section=per_section,
                ignore_groundtruth=ignore_groundtruth,
            )
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
            raise ValueError(
                "the files share neither neuron ids nor clefts nor synaptic partners; the first "
                f"holds {ours.contents()}, the second {theirs.contents()}"
            )
    return results


def neuron_scores(
    segmentation: Volume,
    truth: Volume,
    *,
    border_threshold: float | None = None,
    per_section: bool = False,
    ignore_groundtruth: Sequence[int] = (),
) -> dict[str, Any]:
    """Score neuron ids.

    Parameters
    ----------
    segmentation, truth : Volume
        On one grid.
    border_threshold, per_section, ignore_groundtruth
        As in `score_files`.

    Returns
    -------
    dict
        "border_threshold_nm", "ignored_ids", "whole_volume" and, for `per_section`,
        "mean_of_sections" and "sections" (None where every voxel is ignored).

    Raises
    ------
    ZeroDivisionError
        If every voxel is ignored.
    TypeError, ValueError
        If the labels are not integers, are negative, or are not on one grid.
    """
    evaluation = NeuronIds(truth, border_threshold, ignore_groundtruth=ignore_groundtruth)
    result: dict[str, Any] = {
        "border_threshold_nm": border_threshold or 0.0,
        "ignored_ids": list(evaluation.ignored_ids),
        "whole_volume": evaluation.whole_volume_scores(segmentation).as_dict(),
    }
    if per_section:
        sections = evaluation.section_scores(segmentation)
        result["mean_of_sections"] = mean_of_sections(sections).as_dict()
        result["sections"] = [scores and scores.as_dict() for scores in sections]
    return result


def neuron_table(scores: dict[str, Any]) -> str:
    """Lay the result of `neuron_scores` out for a person."""
    border = scores["border_threshold_nm"]
    ignoring = f"ignoring {border:g} nm around borders" if border else "borders included"
    titles = {"whole_volume": f"Neuron ids, whole volume at once, {ignoring}"}
    if "sections" in scores:
        scored = sum(section is not None for section in scores["sections"])
        title = f"Neuron ids, mean of {scored} sections scored one by one, {ignoring}"
        titles["mean_of_sections"] = title
    blocks = []
    for key, title in titles.items():
        blocks.append(block(title, {name: scores[key][k] for k, name in SCORE_NAMES.items()}))
    return "\n\n".join(blocks)


def block(title: str, rows: dict[str, Any]) -> str:
    """Lay out named numbers under a title; None marks a number that does not exist."""

    def text(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:d}" if isinstance(value, int) else f"{value:.4f}"

    width = max(20, *(len(name) + 2 for name in rows))
    lines = [f"  {name:<{width}}{text(value):>10}" for name, value in rows.items()]
    return "\n".join([title, *lines])


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


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
