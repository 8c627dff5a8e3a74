"""What MALIS gains, by how segments are read off the affinities.

Networks that learned from cross-entropy and from both losses are read in ways that differ in how
much evidence they want before they join two segments: a single strong edge (threshold and
watershed, single linkage), the mean of a boundary, most of it (a quantile); from one view or from
the mean over all. `gains` puts the differences side by side. Where labels touch, cross-entropy was
trained both with the margin that MALIS needs and on the labels as they are: the first rival differs
in nothing but the loss, the second may be the stronger one.
"""

from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from report.configurations import DATA, FOLDS
from report.folds import load_folds
from report.record import RESULTS
from report.runs import VIEWS, load_runs, score_of, title_of

READINGS = {  # from the most fragile to the most robust
    "threshold_watershed": "threshold + watershed",
    "single_linkage": "single linkage",
    "mean_linkage": "mean linkage",
    "quantile75": "75 % quantile",
}
OURS = "unet-both"
RIVALS = ("unet-cross-entropy", "unet-cross-entropy-as-labelled")  # the first has our margin
Run = dict[str, Any]


def pairs_of(
    data: str, rival: str = RIVALS[0], results: Path = RESULTS
) -> tuple[str, list[tuple[Run, Run]]]:
    """Pair runs of both losses with those of cross-entropy that saw the same patches.

    Parameters
    ----------
    data : str
        Key of `DATA`.
    rival : str
        One of `RIVALS`.
    results : Path

    Returns
    -------
    unit : str
        "folds" where a cross-validation has two pairs, else "seeds".
    pairs : list of (ours, theirs)
    """
    if data in FOLDS:
        folds = load_folds(data, results)
        pairs = _pair(folds.get(OURS, {}), folds.get(rival, {}))
        if len(pairs) > 1:
            return "folds", pairs
    found = load_runs(results)
    return "seeds", _pair(found.get((data, OURS), {}), found.get((data, rival), {}))


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
        One for each volume and rival with at least two pairs of runs: ``title``, whether its
        labels are ``touching`` each other, whether the rival has the ``same_margin``, the number
        of ``pairs`` and of which ``unit`` they are, and ``cells``: for every reading the ``mean``
        of the difference (CREMI score of cross-entropy minus that of both losses), its standard
        ``error`` and in how many pairs it is positive (``ahead``).
    """
    rows = []
    for data, rival in product(DATA, RIVALS):
        unit, pairs = pairs_of(data, rival, results)
        if len(pairs) < 2:
            continue
        cells = []
        for prefix in ("", VIEWS):
            for reading, name in READINGS.items():
                kind = prefix + reading
                scores = [tuple(score_of(run, "cremi_score", kind) for run in p) for p in pairs]
                if any(None in pair for pair in scores):
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
                "same_margin": rival == RIVALS[0],
                "unit": unit,
                "pairs": len(pairs),
                "cells": cells,
            }
        )
    return rows
