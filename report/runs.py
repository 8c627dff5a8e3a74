"""The runs in ``report/results/runs``: read, scored, and those that are missing."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from report.configurations import DATA, METHODS, SEEDS, runs
from report.record import RESULTS, ROOT

TITLES = {
    "synthetic": "Synthetic sample",
    "isbi2012": "ISBI 2012",
    "fib25": "FIB-25, sections",
    "fib25_neighbours": "FIB-25, neighbours",
    "fib25_volume": "FIB-25, volume",
    "cremi_crop": "CREMI B, crop",
}
MAIN = "agglomeration"
LAST_CANDIDATE = 0.95  # for the threshold before a watershed, in runs that do not say
VIEWS = "views_"  # before the names of what is found with the mean over all views
GALLERY = ROOT / "report" / "figures" / "gallery"


def load_runs(results: Path = RESULTS) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Read all runs.

    Parameters
    ----------
    results : Path

    Returns
    -------
    dict
        From (data, method) to the runs by seed.
    """
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for path in sorted((results / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        found.setdefault((run["data"], run["method"]), {})[run["seed"]] = run
    return {key: dict(sorted(by_seed.items())) for key, by_seed in found.items()}


def title_of(data: str) -> str:
    """Return the name of a volume in tables and figures."""
    return TITLES.get(data, data)


def score_of(run: dict[str, Any], score: str, kind: str = MAIN) -> float | None:
    """Read a mean score over test sections; "rand" is 1 minus the adapted Rand error."""
    means = run["scores"].get(kind, {}).get("mean")
    if means is None:
        return None
    return 1 - means["adapted_rand_error"] if score == "rand" else means[score]


def is_open_ended(run: dict[str, Any], kind: str) -> bool:
    """Whether a threshold is the last of its candidates: a higher one might have been better.

    Such a score tells how far the candidates went, not what the network can do, and nothing is
    compared with it.

    Parameters
    ----------
    run : dict
        What the run wrote.
    kind : str
        How segments are read; only threshold and watershed tries candidates from a list.

    Returns
    -------
    bool
    """
    if not kind.endswith("threshold_watershed") or kind not in run["scores"]:
        return False
    part = run["scores"][kind]
    last = part["candidates"]["threshold"][-1] if "candidates" in part else LAST_CANDIDATE
    return part["threshold"] >= last


def statistics(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Return mean, standard deviation (None for one value) and number; None for no value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": mean(known),
        "spread": stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def methods_of(data: str) -> list[str]:
    """List the methods that are to be run on a volume."""
    return list(dict.fromkeys(method for _, method, _ in runs([data], list(METHODS), SEEDS)))


def is_cross_entropy(run: dict[str, Any]) -> bool:
    """Whether a run was trained with cross-entropy and nothing else."""
    losses = json.dumps(run.get("losses") or run["loss"])
    return "AffinityCrossEntropy" in losses and not re.search("MalisLoss|MaximinLoss", losses)


def baseline_of(data: str, found: dict) -> str | None:
    """Name the cross-entropy that others are compared with: of several, the best on test sections.

    Parameters
    ----------
    data : str
    found : dict
        From `load_runs`.

    Returns
    -------
    str or None
        Key of `METHODS`; None where cross-entropy has not run.
    """
    means = {
        method: mean(score_of(run, "cremi_score") for run in found[data, method].values())
        for method in methods_of(data)
        if (data, method) in found and all(map(is_cross_entropy, found[data, method].values()))
    }
    return min(means, key=means.get, default=None)


def missing_runs(found: dict) -> list[dict[str, Any]]:
    """List the runs of the grid that have no result, with the command for each group of them.

    Parameters
    ----------
    found : dict

    Returns
    -------
    list of dict
        ``data``, ``methods``, ``seeds`` and ``command``; methods that lack the same seeds of a
        volume are one entry.
    """
    return _grouped(lambda data, method, seed: seed not in found.get((data, method), {}))


def open_ended_runs(found: dict) -> list[dict[str, Any]]:
    """List the runs whose threshold is the last that was tried, as `missing_runs` does.

    Parameters
    ----------
    found : dict

    Returns
    -------
    list of dict
        The commands train again.
    """
    kinds = ("threshold_watershed", f"{VIEWS}threshold_watershed")

    def is_open(data: str, method: str, seed: int) -> bool:
        run = found.get((data, method), {}).get(seed)
        return run is not None and any(is_open_ended(run, kind) for kind in kinds)

    return _grouped(is_open, " --no-resume")


def _grouped(chosen: Callable[[str, str, int], bool], option: str = "") -> list[dict[str, Any]]:
    """Put the chosen runs of the grid together, methods of a volume with the same seeds."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for data in DATA:
        for method in methods_of(data):
            planned = [s for _, _, s in runs([data], [method], SEEDS)]
            seeds = tuple(s for s in planned if chosen(data, method, s))
            if seeds:
                groups.setdefault((data, seeds), []).append(method)
    return [
        {
            "data": data,
            "title": title_of(data),
            "methods": methods,
            "seeds": list(seeds),
            "command": f"python -m report.experiments --only {data} --methods {' '.join(methods)} "
            f"--seeds {' '.join(map(str, seeds))}{option}",
        }
        for (data, seeds), methods in groups.items()
    ]


def gallery_cards(found: dict, folder: Path = GALLERY) -> list[dict[str, Any]]:
    """Read the cards of all pictures of tissue, in the order of `DATA`, by section.

    Only pictures of networks whose run is among the results are listed: same seed, same threshold.

    Parameters
    ----------
    found : dict
        From `load_runs`.
    folder : Path

    Returns
    -------
    list of dict
        The cards, with the folder's name and the title of the volume.
    """
    cards = []
    for data in DATA:
        for path in sorted(folder.glob(f"{data}_*/card.json")):
            card = json.loads(path.read_text())
            networks = {
                method: network
                for method, network in card["networks"].items()
                if (run := found.get((data, method), {}).get(network["seed"]))
                and run["scores"][MAIN]["threshold"] == network["threshold"]
            }
            if card["data"] == data and networks:
                own = {"folder": path.parent.name, "title": title_of(data), "networks": networks}
                cards.append({**card, **own})
    return cards


def missing_pictures(found: dict) -> list[str]:
    """Name the volumes that have runs without a picture."""
    drawn = {(c["data"], method) for c in gallery_cards(found) for method in c["networks"]}
    return [data for data in DATA if any(k[0] == data and k not in drawn for k in found)]
