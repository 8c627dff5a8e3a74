"""What the cross-validations say: losses compared on every section of a volume.

A network of two dimensions is scored section by section, one of three by the volume that a fold
holds out. Sections of one fold share two networks, so their differences are not independent. The
standard error is therefore that of the folds' mean differences: few, but each from networks and
sections of its own.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from report.comparisons import POST_PROCESSING
from report.configurations import (
    DATA,
    FOLDS,
    METHODS,
    Ablation,
    ablations_of,
    fold_of,
    fold_runs,
)
from report.record import RESULTS
from report.runs import MAIN, VIEWS, is_open_ended, title_of

READINGS = {
    MAIN: "agglomeration",
    f"{VIEWS}{MAIN}": "agglomeration, all views",
    "threshold_watershed": "threshold + watershed",
    f"{VIEWS}threshold_watershed": "threshold + watershed, all views",
}


def load_folds(
    data: str, results: Path = RESULTS, steps: int | None = None
) -> dict[str, dict[int, dict[str, Any]]]:
    """Read the runs of a cross-validation.

    Parameters
    ----------
    data : str
        Key of `FOLDS`.
    results : Path
    steps : int, optional
        Of the trainings, where other than usual.

    Returns
    -------
    dict
        From the method to its runs by fold; a method without any is left out.
    """
    usual = steps in (None, fold_of(data, 0).steps)
    folder = results / "folds" if usual else results / "lengths" / str(steps)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for _, method, fold in fold_runs([data]):
        path = folder / f"{data}_{method}_{fold}.json"
        if path.exists():
            found.setdefault(method, {})[fold] = json.loads(path.read_text())
    return found


def held_out_scores(run: dict[str, Any], reading: str) -> dict[int, float]:
    """Return the CREMI score of everything that was held out, by its first section in the stack."""
    source = fold_of(run["data"], 0)
    kind = reading.replace(MAIN, source.linkage)
    scores = [one["cremi_score"] for one in run["scores"][kind]["sections"]]
    starts = source.split.test if len(source.patch) == 2 else source.split.test[:1]
    return {
        (run["first_section"] + section) % source.split.test.stop: score
        for section, score in zip(starts, scores, strict=True)
    }


def fold_tables(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Make the tables of `fold_table` of all volumes and ablations that have two folds.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of dict
    """
    tables = (
        fold_table(data, ablation, results) for data in FOLDS for ablation in ablations_of(data)
    )
    return [table for table in tables if table]


def length_tables(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Make the tables of `fold_table` of all that was cross-validated with several lengths.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of dict
        Tables of a volume and an ablation follow each other, by rising number of steps.
    """
    others = {int(folder.name) for folder in (results / "lengths").glob("[0-9]*")}
    tables = []
    for data in FOLDS:
        lengths = sorted(others | {fold_of(data, 0).steps})
        for ablation in ablations_of(data):
            made = [fold_table(data, ablation, results, steps) for steps in lengths]
            tables += [table for table in made if table] if sum(map(bool, made)) > 1 else []
    return tables


def fold_table(
    data: str,
    ablation: Ablation | None = None,
    results: Path = RESULTS,
    steps: int | None = None,
) -> dict[str, Any] | None:
    """Compare cross-entropy without and with MALIS on all folds that have both.

    Parameters
    ----------
    data : str
        Key of `FOLDS`.
    ablation : Ablation, optional
        By default the first of the volume.
    results : Path
    steps : int, optional
        Of the trainings, where other than usual.

    Returns
    -------
    dict or None
        ``title``; ``baseline`` and ``name`` of the ``methods``; what both have (``labels``);
        ``folds`` and ``planned`` folds, ``sections``, ``steps``, ``linkage``, how many pieces
        were ``scored`` and what they are (``unit``); for each reading of `READINGS` a row with
        the mean CREMI scores ``ours`` and ``theirs``, their mean ``difference`` with its standard
        ``error``, the mean variation of information of both by its part (``voi``, ours first),
        in how many pieces and folds ours is ``lower``, and whether a threshold is the last that
        was tried (``open_ended``). None with fewer than two folds.
    """
    found = load_folds(data, results, steps)
    ablation = ablation or ablations_of(data)[0]
    baseline, method = ablation.baseline, ablation.method
    common = sorted(set(found.get(baseline, {})) & set(found.get(method, {})))
    if len(common) < 2:
        return None
    linkage, rows = fold_of(data, 0).linkage, []
    for reading, title in READINGS.items():
        pairs = [
            [held_out_scores(found[m][fold], reading) for m in (method, baseline)]
            for fold in common
        ]
        differences = [[ours[z] - theirs[z] for z in ours] for ours, theirs in pairs]
        folds = [mean(fold) for fold in differences]
        pieces = [one for fold in differences for one in fold]
        rows.append(
            {
                "key": reading,
                "name": title,
                "ours": mean(score for ours, _ in pairs for score in ours.values()),
                "theirs": mean(score for _, theirs in pairs for score in theirs.values()),
                "difference": mean(pieces),
                "error": stdev(folds) / len(folds) ** 0.5,
                "voi": {
                    part: [
                        mean(
                            found[m][fold]["scores"][reading.replace(MAIN, linkage)]["mean"][part]
                            for fold in common
                        )
                        for m in (method, baseline)
                    ]
                    for part in ("voi_split", "voi_merge")
                },
                "open_ended": any(
                    is_open_ended(found[m][fold], reading.replace(MAIN, linkage))
                    for fold in common
                    for m in (method, baseline)
                ),
                "lower": sum(one < 0 for one in pieces),
                "lower_folds": sum(one < 0 for one in folds),
            }
        )
    return {
        "key": data,
        "title": title_of(data),
        "name": METHODS[method].title,
        "baseline": METHODS[baseline].title,
        "methods": (baseline, method),
        "labels": ablation.title,
        "folds": len(common),
        "planned": FOLDS[data].count,
        "sections": len(common) * len(DATA[data].split.test),
        "scored": len(pieces),
        "linkage": POST_PROCESSING[linkage],
        "steps": steps or fold_of(data, 0).steps,
        "unit": "sections" if len(DATA[data].patch) == 2 else "slabs",
        "rows": rows,
    }


def missing_folds(results: Path = RESULTS) -> list[dict[str, Any]]:
    """List the cross-validations that are not complete: how many runs are missing, the command."""
    missing = []
    for data in FOLDS:
        found = load_folds(data, results)
        planned = fold_runs([data])
        lacking = sum(fold not in found.get(method, {}) for _, method, fold in planned)
        if lacking:
            command = f"python -m report.experiments --folds --only {data}"
            missing.append({"data": data, "runs": lacking, "command": command})
    return missing


def open_ended_folds(results: Path = RESULTS) -> list[dict[str, Any]]:
    """List the runs of cross-validations whose threshold is the last that was tried.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of dict
        ``data``, number of ``runs`` and ``command``, which trains again, for each fold with any.
    """
    entries = []
    for data in FOLDS:
        found = load_folds(data, results)
        for fold in range(FOLDS[data].count):
            methods = [
                method
                for method, by_fold in found.items()
                if fold in by_fold and any(is_open_ended(by_fold[fold], kind) for kind in READINGS)
            ]
            if methods:
                command = (
                    f"python -m report.experiments --folds --only {data} "
                    f"--methods {' '.join(methods)} --seeds {fold} --no-resume"
                )
                entries.append({"data": data, "runs": len(methods), "command": command})
    return entries
