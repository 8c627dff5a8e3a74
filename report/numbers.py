"""Every number of the report and the slides, taken from ``report/results``: `collect`.

The documents hold no number and no comparison of their own: typst reads the one dictionary that is
made here. What has not been measured is not there, and `missing_runs` says how to measure it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from report.configurations import DATA, METHODS, SEEDS, runs
from report.examples import grid_example, rounds_example, weak_pixel_example
from report.record import RESULTS, ROOT

TITLES = {
    "synthetic": "Synthetic sample",
    "isbi2012": "ISBI 2012",
    "fib25": "FIB-25, sections",
    "fib25_volume": "FIB-25, volume",
    "cremi_crop": "CREMI B, crop",
}
MAIN = "agglomeration"
SCORES = ("voi_split", "voi_merge", "rand", "cremi_score")
POST_PROCESSING = {
    "agglomeration": "mean",
    "single_linkage": "single",
    "quantile75": "75 % quantile",
    "threshold_watershed": "threshold + watershed",
}
SEGMENTATIONS = {
    "connected_components": "connected components",
    "threshold_watershed": "threshold + watershed",
    "mean": "mean",
    "single": "single",
    "quantile75": "75 % quantile",
    "quantile75_max": "quantile of maxima",
    "waterz_mean": "waterz, mean",
    "waterz_quantile75": "waterz, quantile",
    "waterz_quantile75_max": "waterz, q. of maxima",
}
QUALITY_TITLES = {  # of report.segmentation_quality, whose volumes have names of their own
    "isbi2012": "ISBI 2012",
    "cremi_crop": "CREMI B, crop",
    "fib25_sections": "FIB-25, sections",
    "fib25": "FIB-25, volume",
}
GALLERY = ROOT / "report" / "figures" / "gallery"
BENCHMARKS = {
    "loss": "python -m benchmarks.loss",
    "parallel_cpu": "python -m benchmarks.parallel_loss",
    "parallel_cuda": "python -m benchmarks.loss --device cuda",
    "segmentation": "python -m benchmarks.segmentation",
    "evaluation": "python -m benchmarks.evaluation",
}


def collect(results: Path = RESULTS) -> dict[str, Any]:
    """Gather all numbers.

    Parameters
    ----------
    results : Path
        Folder of the results.

    Returns
    -------
    dict
        JSON-able, the same for the same results.
    """
    found = load_runs(results)
    quality = _read(results / "segmentation_quality.json")
    sources = _sources(results)
    return {
        "date": max(source["date"] for source in sources),
        "sources": sources,
        "tables": [data_table(data, found) for data in DATA],
        "summary": summarise(found),
        "training": training_costs(found),
        "missing": missing_runs(found),
        **{name: _read(results / f"benchmark_{name}.json") for name in BENCHMARKS},
        "speed": speed_facts(_read(results / "benchmark_loss.json")),
        "quality": segmentation_table(quality) if quality else None,
        "earlier": json.loads((ROOT / "report" / "earlier.json").read_text()),
        "gallery": gallery_cards(),
        "examples": {
            "weak_pixel": weak_pixel_example().numbers,
            "grid": grid_example().numbers,
            "rounds": rounds_example(),
        },
    }


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
                    for kind in kinds
                },
            }
        )
    measured = [row for row in rows if row["seeds"]]
    kinds = [k for k in POST_PROCESSING if any(row["by_kind"].get(k) for row in measured)]
    examples = [run for row in measured for run in found[data, row["method"]].values()]
    best = min(measured, key=lambda row: row["scores"]["cremi_score"]["mean"], default=None)
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
        "kinds": [{"key": kind, "name": POST_PROCESSING[kind]} for kind in kinds],
        "best": best
        and {
            "name": best["name"],
            "score": best["scores"]["cremi_score"],
            "sections": section_range(found[data, best["method"]].values()),
        },
        "comparisons": compare_with_baseline(data, found),
    }


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
    """Compare every U-Net with the one trained by cross-entropy alone, seed by seed.

    Parameters
    ----------
    data : str
    found : dict

    Returns
    -------
    list of dict
        For each other U-Net that shares seeds with it: the number of common seeds, in how many the
        CREMI score was lower, and both means over the common seeds.
    """
    by_method = {m: found[data, m] for m in methods_of(data) if (data, m) in found}
    plain = [m for m, own in by_method.items() if all(map(is_cross_entropy, own.values()))]
    if not plain:
        return []
    baseline = plain[0]
    network = METHODS[baseline].network
    rows = []
    for method, ours in by_method.items():
        if method == baseline or METHODS[method].network is not network:
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
        "baseline": rows[0]["baseline"] if rows else None,
    }


def training_costs(found: dict) -> list[dict[str, Any]]:
    """Return weights and seconds of a step for every method and volume, means over seeds."""
    rows = []
    for data in DATA:
        for method in methods_of(data):
            by_seed = found.get((data, method), {})
            if not by_seed:
                continue
            seconds = {
                part: mean(run["seconds_per_step"][part] for run in by_seed.values())
                for part in ("data", "network", "loss")
            }
            run = next(iter(by_seed.values()))
            rows.append(
                {
                    "title": title_of(data),
                    "name": METHODS[method].title,
                    "parameters": run["parameters"],
                    "seconds": seconds,
                    "loss_share": seconds["loss"] / sum(seconds.values()),
                    "device": run["environment"]["device"],
                    "threads": run["threads"],
                }
            )
    return rows


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
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for data in DATA:
        for method in methods_of(data):
            wanted = [s for d, m, s in runs([data], [method], SEEDS)]
            lacking = tuple(s for s in wanted if s not in found.get((data, method), {}))
            if lacking:
                groups.setdefault((data, lacking), []).append(method)
    return [
        {
            "data": data,
            "title": title_of(data),
            "methods": methods,
            "seeds": list(seeds),
            "command": f"python -m report.experiments --only {data} --methods {' '.join(methods)} "
            f"--seeds {' '.join(map(str, seeds))}",
        }
        for (data, seeds), methods in groups.items()
    ]


def missing_benchmarks(results: Path = RESULTS) -> list[dict[str, str]]:
    """List the benchmarks that have no result, with their commands."""
    return [
        {"name": f"benchmark_{name}", "command": command}
        for name, command in BENCHMARKS.items()
        if not (results / f"benchmark_{name}.json").exists()
    ]


def speed_facts(loss: dict[str, Any] | None) -> dict[str, Any] | None:
    """Derive the ratios that the text names from the benchmark of the loss.

    Parameters
    ----------
    loss : dict or None
        ``benchmark_loss.json``.

    Returns
    -------
    dict or None
    """
    if loss is None:
        return None
    sizes = []
    for row in loss["sizes"]:
        faster = min(row["pair_counts_s"], row["pair_counts_parallel_s"])
        sizes.append(
            {
                **row,
                "voxels": shape_text(row["shape"]),
                "ratio": faster / row["two_bpt_canonical_s"],
                "times_as_fast": row["two_bpt_canonical_s"] / faster,
            }
        )
    largest = max(sizes, key=lambda row: row["edges"])
    phases = dict(largest["phases_s"])
    phases["counting"] = max(0.0, largest["pair_counts_s"] - sum(phases.values()))
    labels = loss["labels"]
    return {
        "sizes": sizes,
        "largest": largest,
        "phases": phases,
        "labels_voxels": shape_text(labels[0]["shape"]),
        "label_numbers": [row["labels"] for row in labels],
        "constrained_range": [
            min(row["constrained_s"] for row in labels),
            max(row["constrained_s"] for row in labels),
        ],
        "memory_voxels": shape_text(loss["memory"][0]["shape"]),
        "memory": {row["kind"]: row["bytes_per_edge"] for row in loss["memory"]},
    }


def segmentation_table(quality: dict[str, Any]) -> dict[str, Any]:
    """Average the comparison of segmentations over samples, and keep the ratios to waterz.

    Parameters
    ----------
    quality : dict
        ``segmentation_quality.json``.

    Returns
    -------
    dict
    """
    rows = []
    keys = dict.fromkeys((row["data"], row["source"]) for row in quality["rows"])
    methods = [m for m in SEGMENTATIONS if m in quality["rows"][0]["methods"]]
    for data, source in keys:
        same = [r for r in quality["rows"] if (r["data"], r["source"]) == (data, source)]
        cells = {
            method: statistics([r["methods"][method]["test"]["cremi_score"] for r in same])
            for method in methods
        }
        title = QUALITY_TITLES.get(data, data)
        rows.append({"title": title, "source": source, "cells": cells, "samples": len(same)})
    ratios = [
        {"data": data, "function": function, **values}
        for data, functions in quality["times_waterz"].items()
        for function, values in functions.items()
    ]
    mean_ratios = [row for row in ratios if row["function"] == "mean"]
    others = [row for row in ratios if row["function"] != "mean"]
    errors = [
        abs(row["cremi_score"] - 1) / max(row["cremi_score_standard_error"], 1e-9) for row in others
    ]
    best = [min(row["cells"], key=lambda m: row["cells"][m]["mean"]) for row in rows]
    return {
        "waterz": quality["waterz"],
        "methods": [{"key": key, "name": SEGMENTATIONS[key]} for key in methods],
        "rows": rows,
        "ratios": ratios,
        "samples": rows[0]["samples"],
        "mean_identical": bool(mean_ratios) and all(
            abs(row["cremi_score"] - 1) < 1e-6 and abs(row["voi_sum"] - 1) < 1e-6
            for row in mean_ratios
        ),
        "worst_standard_errors": max(errors, default=0.0),
        "ratio_range": [
            min((row["cremi_score"] for row in others), default=1.0),
            max((row["cremi_score"] for row in others), default=1.0),
        ],
        "best_is_mean": sum(name in ("mean", "waterz_mean") for name in best),
        "cases": len(rows),
    }  # fmt: skip


def gallery_cards(folder: Path = GALLERY) -> list[dict[str, Any]]:
    """Read the cards of all pictures of tissue, in the order of `DATA`, by section.

    Parameters
    ----------
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
            if card["data"] == data and card["networks"]:
                cards.append({**card, "folder": path.parent.name, "title": title_of(data)})
    return cards


def missing_pictures(found: dict, folder: Path = GALLERY) -> list[str]:
    """Name the volumes that have runs without a picture."""
    drawn = {
        (card["data"], method) for card in gallery_cards(folder) for method in card["networks"]
    }
    return [data for data in DATA if any(k[0] == data and k not in drawn for k in found)]


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as 128 × 128, without a batch of one."""
    return " × ".join(str(size) for size in shape if size > 1)


def _range(sections: range) -> str:
    """Write a range of section numbers."""
    last = sections[-1]
    if len(sections) == 1:
        return str(last)
    step = f" in steps of {sections.step}" if sections.step > 1 else ""
    return f"{sections[0]}–{last}{step}"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _sources(results: Path) -> list[dict[str, Any]]:
    """Name what the numbers come from, with dates, revisions and a mark of the contents."""
    names = [f"benchmark_{name}.json" for name in BENCHMARKS] + ["segmentation_quality.json"]
    groups = {name: [results / name] for name in names}
    for data in DATA:
        groups[f"runs/{data}_*.json"] = [
            path
            for method in methods_of(data)
            for path in sorted((results / "runs").glob(f"{data}_{method}_*.json"))
        ]
    rows = []
    for name, paths in groups.items():
        contents = [path.read_bytes() for path in paths if path.exists()]
        if not contents:
            continue
        environments = [json.loads(content)["environment"] for content in contents]
        rows.append(
            {
                "name": name,
                "files": len(contents),
                "date": max(environment["date"] for environment in environments),
                "revisions": sorted(
                    {environment["revision"] or "" for environment in environments}
                ),
                "mark": hashlib.sha256(b"".join(contents)).hexdigest()[:8],
            }
        )
    return rows
