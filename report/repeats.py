"""How much a score differs when a training is repeated: ``report/results/repeats``.

Two trainings from one seed draw the same weights and patches. On the same machine with the same
versions they end with the same bits. Where sums are rounded otherwise, on another machine or by
another number of threads, they drift apart and end as if the seed had been another one.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from report.comparisons import trained_in
from report.configurations import DATA, METHODS
from report.record import RESULTS
from report.runs import load_runs, methods_of, score_of, statistics, title_of

SAME = ("data", "method", "seed", "steps", "losses", "batch_size", "patch", "peak_learning_rate")


def load_repeats(results: Path = RESULTS) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Read the earlier trainings of runs that were made again.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of (dict, dict)
        The earlier run and the one that the tables show, which differ in no setting.

    Raises
    ------
    ValueError
        If a run was made with other settings.
    """
    found, pairs = load_runs(results), []
    for path in sorted((results / "repeats").glob("*.json")):
        earlier = json.loads(path.read_text())
        now = found.get((earlier["data"], earlier["method"]), {}).get(earlier["seed"])
        if now is None:
            continue
        if other := [name for name in SAME if earlier.get(name) != now.get(name)]:
            raise ValueError(f"{path.name} is no repetition, it differs in {', '.join(other)}")
        pairs.append((earlier, now))
    return pairs


def repeat_rows(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Compare both trainings, volume by volume.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of dict
        For each volume its ``key`` and ``title``, how many ``pairs`` of trainings there are, the
        mean of the absolute ``difference`` of their CREMI scores, the ``processors`` of both, and
        ``methods``: by method its ``name``, the ``earlier`` and present (``now``) scores over the
        seeds that have both, and those of ``all`` trainings.
    """
    pairs, rows = load_repeats(results), []
    for data in DATA:
        own = [pair for pair in pairs if pair[1]["data"] == data]
        methods: dict[str, dict[str, Any]] = {}
        differences: list[float] = []
        for method in methods_of(data):
            scores = [
                (score_of(earlier, "cremi_score"), score_of(now, "cremi_score"))
                for earlier, now in own
                if now["method"] == method
            ]
            if scores:
                earlier, now = zip(*scores, strict=True)
                methods[method] = {
                    "name": METHODS[method].title,
                    "earlier": statistics(earlier),
                    "now": statistics(now),
                    "all": statistics(earlier + now),
                }
                differences += [abs(a - b) for a, b in scores]
        if differences:
            rows.append(
                {
                    "key": data,
                    "title": title_of(data),
                    "pairs": len(differences),
                    "difference": mean(differences),
                    "processors": [
                        sorted({trained_in(pair[which])["processor"] for pair in own})
                        for which in (0, 1)
                    ],
                    "methods": methods,
                }
            )
    return rows
