"""What MALIS gains, by how segments are read off the affinities.

Networks that learned from cross-entropy and from both losses are read in ways that differ in how
much of a boundary must be strong before they join two segments: a single edge (threshold and
watershed, single linkage), a quarter of it (the 75 % quantile of its affinities), all of it on
average (mean linkage); from one view or from the mean over all. `gains` puts the differences side
by side. Each pair of trainings differs in nothing but MALIS.
"""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from report.configurations import DATA, FOLDS, Ablation, ablations_of
from report.folds import load_folds
from report.record import RESULTS
from report.runs import VIEWS, is_open_ended, load_runs, score_of, title_of

READINGS = {  # from a single edge to the whole boundary
    "threshold_watershed": "threshold + watershed",
    "single_linkage": "single linkage",
    "quantile75": "75 % quantile",
    "mean_linkage": "mean linkage",
}
Run = dict[str, Any]


def pairs_of(
    data: str, ablation: Ablation, results: Path = RESULTS
) -> tuple[str, list[tuple[Run, Run]]]:
    """Pair runs of both losses with those of cross-entropy that saw the same patches.

    Parameters
    ----------
    data : str
        Key of `DATA`.
    ablation : Ablation
    results : Path

    Returns
    -------
    unit : str
        "folds" where a cross-validation has two pairs, else "seeds".
    pairs : list of (ours, theirs)
    """
    if data in FOLDS:
        folds = load_folds(data, results)
        pairs = _pair(folds.get(ablation.method, {}), folds.get(ablation.baseline, {}))
        if len(pairs) > 1:
            return "folds", pairs
    found = load_runs(results)
    ours, theirs = (found.get((data, key), {}) for key in (ablation.method, ablation.baseline))
    return "seeds", _pair(ours, theirs)


def _pair(ours: dict[int, Run], theirs: dict[int, Run]) -> list[tuple[Run, Run]]:
    return [(ours[key], theirs[key]) for key in sorted(set(ours) & set(theirs))]


def gains(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Compare both losses with cross-entropy in all readings.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of dict
        One for each volume and ablation with at least two pairs of runs: ``title``, whether its
        labels are ``touching`` each other, what both have (``labels``), the number of ``pairs``
        and of which ``unit`` they are, and ``cells``: for every reading the ``mean`` of the
        difference (CREMI score of cross-entropy minus that of both losses), its standard
        ``error`` and in how many pairs it is positive (``ahead``). A reading is left out where a
        threshold is the last that was tried, see `is_open_ended`.
    """
    rows = []
    for data, ablation in ((key, one) for key in DATA for one in ablations_of(key)):
        unit, pairs = pairs_of(data, ablation, results)
        if len(pairs) < 2:
            continue
        cells = []
        for prefix in ("", VIEWS):
            for reading, name in READINGS.items():
                kind = prefix + reading
                scores = [tuple(score_of(run, "cremi_score", kind) for run in p) for p in pairs]
                open_ended = any(is_open_ended(run, kind) for pair in pairs for run in pair)
                if open_ended or any(None in pair for pair in scores):
                    continue
                differences = [theirs - ours for ours, theirs in scores]
                cells.append(
                    {
                        "key": kind,
                        "name": name,
                        "all_views": bool(prefix),
                        "mean": mean(differences),
                        "error": stdev(differences) / len(differences) ** 0.5,
                        "ahead": sum(one > 0 for one in differences),
                    }
                )
        rows.append(
            {
                "key": data,
                "title": title_of(data),
                "touching": DATA[data].boundary > 0,
                "labels": ablation.title,
                "unit": unit,
                "pairs": len(pairs),
                "cells": cells,
            }
        )
    return rows
