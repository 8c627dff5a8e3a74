"""What the runs say: the tables of every volume, and who was better than whom."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from report.configurations import DATA, METHODS, RATES, SEEDS, TRIALS, at_rate, file_name, runs
from report.runs import (
    MAIN,
    VIEWS,
    baseline_of,
    is_cross_entropy,
    is_open_ended,
    load_runs,
    methods_of,
    score_of,
    statistics,
    title_of,
)

SCORES = ("voi_split", "voi_merge", "rand", "cremi_score")
POST_PROCESSING = {
    "mean_linkage": "mean",
    "single_linkage": "single",
    "quantile75": "75 % quantile",
    "threshold_watershed": "threshold + watershed",
    "views_agglomeration": "all views",
    "views_threshold_watershed": "all views, threshold + watershed",
}


def data_table(data: str, found: dict) -> dict[str, Any]:
    """Make the rows of the tables of one volume, and what is compared in the text.

    Parameters
    ----------
    data : str
        Key of `DATA`.
    found : dict
        From `load_runs`.

    Returns
    -------
    dict
    """
    source = DATA[data]
    rows = []
    for method in methods_of(data):
        by_seed = found.get((data, method), {})
        all_runs = list(by_seed.values())
        kinds = {kind for run in all_runs for kind in run["scores"]}
        rows.append(
            {
                "method": method,
                "name": METHODS[method].title,
                "seeds": list(by_seed),
                "scores": {s: statistics([score_of(r, s) for r in all_runs]) for s in SCORES},
                "by_kind": {
                    kind: statistics([score_of(r, "cremi_score", kind) for r in all_runs])
                    | {"open_ended": any(is_open_ended(r, kind) for r in all_runs)}
                    for kind in kinds
                },
            }
        )
    measured = [row for row in rows if row["seeds"]]
    kinds = [k for k in POST_PROCESSING if any(row["by_kind"].get(k) for row in measured)]
    examples = [run for row in measured for run in found[data, row["method"]].values()]
    best = min(measured, key=lambda row: row["scores"]["cremi_score"]["mean"], default=None)
    comparisons = compare_with_baseline(data, found)
    return {
        "key": data,
        "title": title_of(data),
        "source": source.source,
        "split": {
            name: _range(getattr(source.split, name)) for name in ("train", "validation", "test")
        },
        "n_test": len(source.split.test),
        "ndim": len(source.patch),
        "ignores_background": 0 in source.ignore,
        "patch": source.patch,
        "batch": source.batch,
        "steps": sorted({run["steps"] for run in examples}) or [source.steps],
        "rows": rows,
        "boundary": source.boundary,
        "neighbours": source.neighbours,
        "linkage": POST_PROCESSING[source.linkage],
        "kinds": [{"key": kind, "name": POST_PROCESSING[kind]} for kind in kinds],
        "best": best
        and {
            "name": best["name"],
            "score": best["scores"]["cremi_score"],
            "sections": section_range(found[data, best["method"]].values()),
        },
        "views": gain_by_views(examples),
        "comparisons": comparisons,
        "pictured": pictured_methods(measured, comparisons),
    }


def gain_by_views(all_runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Compare the mean over all views with a single view, on validation sections.

    Parameters
    ----------
    all_runs : list of dict
        Of one volume.

    Returns
    -------
    dict or None
        ``networks``: how many; ``lower``: for how many the mean is better; ``one``, ``all``: mean
        validation CREMI scores of a view, and of their mean; None where no run has both.
    """
    pairs = [
        (run["scores"][MAIN]["validation_cremi"], run["scores"][VIEWS + MAIN]["validation_cremi"])
        for run in all_runs
        if VIEWS + MAIN in run["scores"]
    ]
    if not pairs:
        return None
    return {
        "networks": len(pairs),
        "lower": sum(mean_of_all < one for one, mean_of_all in pairs),
        "one": mean(one for one, _ in pairs),
        "all": mean(mean_of_all for _, mean_of_all in pairs),
    }


def pictured_methods(
    measured: list[dict[str, Any]], comparisons: list[dict[str, Any]]
) -> list[str]:
    """Choose two methods to show beside the truth: the baseline, and the best of the others."""
    others = [row["method"] for row in comparisons]
    names = {row["baseline"] for row in comparisons}
    baseline = [row["method"] for row in measured if row["name"] in names]
    ranked = sorted(measured, key=lambda row: row["scores"]["cremi_score"]["mean"])
    best = [row["method"] for row in ranked if not others or row["method"] in others]
    return baseline + best[: 2 - len(baseline)]


def section_range(same: Iterable[dict[str, Any]]) -> list[float] | None:
    """Return the lowest and highest CREMI score of a section, means over runs; None for one."""
    rows = [
        [part["cremi_score"] for part in run["scores"][MAIN]["sections"] if part] for run in same
    ]
    if len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return None
    means = [mean(column) for column in zip(*rows, strict=True)]
    return [min(means), max(means)]


def compare_with_baseline(data: str, found: dict) -> list[dict[str, Any]]:
    """Compare every U-Net that learned from MALIS with cross-entropy alone, seed by seed.

    Parameters
    ----------
    data : str
    found : dict

    Returns
    -------
    list of dict
        For each U-Net that shares seeds with it: the number of common seeds, in how many the
        CREMI score was lower, and both means over the common seeds.
    """
    baseline = baseline_of(data, found)
    if baseline is None:
        return []
    by_method = {m: found[data, m] for m in methods_of(data) if (data, m) in found}
    network = METHODS[baseline].network
    rows = []
    for method, ours in by_method.items():
        if all(map(is_cross_entropy, ours.values())) or METHODS[method].network is not network:
            continue
        theirs = by_method[baseline]
        common = sorted(set(ours) & set(theirs))
        if not common:
            continue
        pairs = [
            (score_of(ours[seed], "cremi_score"), score_of(theirs[seed], "cremi_score"))
            for seed in common
        ]
        rows.append(
            {
                "method": method,
                "name": METHODS[method].title,
                "baseline": METHODS[baseline].title,
                "seeds": len(common),
                "lower": sum(one < other for one, other in pairs),
                "mean": mean(one for one, _ in pairs),
                "baseline_mean": mean(other for _, other in pairs),
            }
        )
    return rows


def summarise(found: dict) -> dict[str, Any]:
    """Count over all volumes what the abstract says.

    Parameters
    ----------
    found : dict

    Returns
    -------
    dict
    """
    planned = runs(list(DATA), list(METHODS), SEEDS)
    done = sum(seed in found.get((data, method), {}) for data, method, seed in planned)
    rows = [row for data in DATA for row in compare_with_baseline(data, found)]
    by_method = {}
    for row in rows:
        entry = by_method.setdefault(row["name"], {"name": row["name"], "lower": 0, "seeds": 0})
        entry["lower"] += row["lower"]
        entry["seeds"] += row["seeds"]
    return {
        "planned": len(planned),
        "done": done,
        "with_runs": sum(any(key[0] == data for key in found) for data in DATA),
        "volumes": len(DATA),
        "seeds": list(SEEDS),
        "most_seeds": max((len(by_seed) for by_seed in found.values()), default=0),
        "against_cross_entropy": list(by_method.values()),
        "baseline": METHODS["unet-cross-entropy"].title if rows else None,
        "two_baselines": [
            title_of(data)
            for data in DATA
            if DATA[data].boundary and (data, "unet-cross-entropy-as-labelled") in found
        ],
    }


def trained_in(run: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a training; that of the scores may be a later one."""
    return run.get("training_environment", run["environment"])


def training_costs(found: dict) -> list[dict[str, Any]]:
    """Return weights and seconds of a step for every method in 2D and 3D, means over its runs."""
    rows = []
    for ndim in sorted({len(data.patch) for data in DATA.values()}):
        for method in METHODS:
            all_runs = [
                run
                for data in DATA
                if len(DATA[data].patch) == ndim
                for run in found.get((data, method), {}).values()
            ]
            if not all_runs:
                continue
            seconds = {
                part: mean(run["seconds_per_step"][part] for run in all_runs)
                for part in ("data", "network", "loss")
            }
            rows.append(
                {
                    "ndim": ndim,
                    "name": METHODS[method].title,
                    "parameters": all_runs[0]["parameters"],
                    "seconds": seconds,
                    "loss_share": seconds["loss"] / sum(seconds.values()),
                    "devices": sorted({trained_in(run)["device"] for run in all_runs}),
                    "runs": len(all_runs),
                }
            )
    return rows


def loss_settings(found: dict) -> dict[str, Any]:
    """Read from the runs how MALIS was computed in them.

    Parameters
    ----------
    found : dict

    Returns
    -------
    dict
        ``windows``: sizes of its windows by number of axes; ``weights``: of MALIS in sums;
        ``whole``: how many runs saw whole patches; ``with_malis``: how many use it at all.
    """
    windows: dict[str, set[int]] = {}
    weights: set[float] = set()
    whole = with_malis = 0

    def walk(loss: dict[str, Any], ndim: int) -> None:
        if loss["name"] == "WindowLoss":
            sizes = loss.get("size", [])
            windows.setdefault(str(ndim), set()).update(
                [sizes] if isinstance(sizes, int) else sizes
            )
        if loss["name"] == "SumLoss" and "weights" in loss:
            weights.add(loss["weights"][0])
        for part in loss.get("losses", []):
            walk(part, ndim)

    for by_seed in found.values():
        for run in by_seed.values():
            losses = json.dumps(run.get("losses") or run["loss"])
            with_malis += "MalisLoss" in losses
            whole += any(
                "MalisLoss" in one and "WindowLoss" not in one
                for one in map(json.dumps, run.get("losses") or [run["loss"]])
            )
            for stage in run.get("losses", []):
                walk(stage, len(run["patch"]))
    return {
        "windows": {ndim: sorted(sizes) for ndim, sizes in sorted(windows.items())},
        "weights": sorted(weights),
        "whole": whole,
        "with_malis": with_malis,
    }


def budgets(found: dict, results: Path) -> list[dict[str, Any]]:
    """Say under which conditions the runs of a volume were made, in the grid and in the folds.

    Parameters
    ----------
    found : dict
        The runs of the grid.
    results : Path

    Returns
    -------
    list of dict
        ``title``, whether a cross-validation (``folds``), and what occurs, sorted: ``steps``,
        ``batches``, ``precisions``, ``processors``, ``windows`` (0 for whole patches).
    """
    folds = [json.loads(path.read_text()) for path in sorted((results / "folds").glob("*.json"))]
    grid = [run for by_seed in found.values() for run in by_seed.values()]
    rows = []
    for data in DATA:
        for is_folds, made in ((False, grid), (True, folds)):
            own = [run for run in made if run["data"] == data]
            if not own:
                continue
            seen: dict[str, set[Any]] = {
                "steps": {run["steps"] for run in own},
                "batches": {run["batch_size"] for run in own},
                "precisions": {run["precision"] for run in own},
                "processors": {_maker(run["environment"]["processor"]) for run in own},
                "windows": set().union(*(_windows(run) for run in own)),
            }
            listed = {key: sorted(values) for key, values in seen.items()}
            rows.append({"title": title_of(data), "folds": is_folds, **listed})
    return rows


def _maker(processor: str) -> str:
    return processor.replace("(R)", "").split()[0]


def _windows(run: dict[str, Any]) -> set[int]:
    """Sizes of the windows of all parts of MALIS in a run; 0 for one on whole patches."""

    def walk(loss: dict[str, Any], window: int) -> set[int]:
        if loss["name"] == "WindowLoss":
            size = loss["size"]
            window = size if isinstance(size, int) else max(size)
        own = {window} if loss["name"] == "MalisLoss" else set()
        return own.union(*(walk(part, window) for part in loss.get("losses", [])))

    return set().union(*(walk(stage, 0) for stage in run.get("losses", [])))


def trial_table(results: Path) -> dict[str, Any] | None:
    """Make the table of what was tried on validation sections; None if nothing was.

    Parameters
    ----------
    results : Path

    Returns
    -------
    dict or None
        ``volumes``, ``steps`` of each volume, and ``rows``; a row has a name and, for each volume,
        the mean validation CREMI score with its spread over seeds, or None.
    """
    steps: dict[str, set[int]] = {}
    trials: dict[tuple[str, str], list[float]] = {}
    rates = {at_rate(method, rate).title for method in METHODS for rate in RATES}
    for path in sorted((results / "trials").glob("*.json")):
        trial = json.loads(path.read_text())
        if trial["title"] in rates:  # see `rate_tables`
            continue
        score = trial["scores"][MAIN]["validation_cremi"]
        trials.setdefault((trial["title"], trial["data"]), []).append(score)
        steps.setdefault(trial["data"], set()).add(trial["steps"])
    if not trials:
        return None
    volumes = [data for data in DATA if any(key[1] == data for key in trials)]
    order = [trial.title for trial in TRIALS.values()]
    names = sorted({name for name, _ in trials if name in order}, key=order.index)
    rows = [
        {"name": name, "cells": [statistics(trials.get((name, data), [])) for data in volumes]}
        for name in names
    ]
    return {
        "volumes": [title_of(data) for data in volumes],
        "steps": [sorted(steps[data]) for data in volumes],
        "rows": rows,
    }


def recipes() -> dict[str, Any]:
    """Return the sizes of the U-Nets, and the peak learning rate of every kind of network."""
    kinds = {METHODS[method].network: METHODS[method] for method in METHODS}
    names = {"PlainCNN": "the network of 2009", "UNet": "U-Nets"}
    unet = METHODS["unet-cross-entropy"]
    sizes = {ndim: unet.network_arguments(ndim) for ndim in (2, 3)}
    return {
        "rates": [
            {"network": names[kind.__name__], "peak": str(method.peak_learning_rate)}
            for kind, method in kinds.items()
        ],
        "networks": [
            {"ndim": ndim, "levels": size["depth"], "features": 2 ** size["wf"]}
            for ndim, size in sizes.items()
        ],
    }


def rate_tables(results: Path) -> list[dict[str, Any]]:
    """Compare the learning rates of the grid with half and twice as much, on validation sections.

    Parameters
    ----------
    results : Path

    Returns
    -------
    list of dict
        One for each volume with trials: ``title``, ``steps``, and ``rows``, one for each method.
        A row has its ``name``, the ``peak`` of its learning rate in the grid, and under ``half``,
        ``own`` and ``twice`` the mean validation CREMI score with its spread over the seeds that
        all three have.
    """
    found, tables = load_runs(results), []
    for data, source in DATA.items():
        rows = []
        for method, recipe in METHODS.items():
            scores = {"own": found.get((data, method), {})}
            for rate in RATES:
                scores[rate] = {}
                for seed in SEEDS:
                    name = file_name(data, at_rate(method, rate).title, seed)
                    path = results / "trials" / f"{name}.json"
                    if path.exists():
                        trial = json.loads(path.read_text())
                        if trial["steps"] == source.steps:
                            scores[rate][seed] = trial
            common = set.intersection(*map(set, scores.values()))
            if common:
                cells = {
                    rate: statistics(
                        [by_seed[s]["scores"][MAIN]["validation_cremi"] for s in common]
                    )
                    for rate, by_seed in scores.items()
                }
                rows.append({"name": recipe.title, "peak": recipe.peak_learning_rate, **cells})
        if rows:
            tables.append(
                {"key": data, "title": title_of(data), "steps": source.steps, "rows": rows}
            )
    return tables


def _range(sections: range) -> str:
    """Write a range of section numbers."""
    last = sections[-1]
    if len(sections) == 1:
        return str(last)
    step = f" in steps of {sections.step}" if sections.step > 1 else ""
    return f"{sections[0]}–{last}{step}"
