"""Every number of the report and the slides, taken from ``report/results``: `collect`.

The documents hold no number and no comparison of their own: typst reads the one dictionary that is
made here. What has not been measured is not there; `report.runs.missing_runs` and
`missing_benchmarks` say how to measure it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.comparisons import (
    budgets,
    data_table,
    loss_settings,
    rate_tables,
    recipes,
    summarise,
    training_costs,
    trial_table,
)
from report.configurations import DATA
from report.examples import grid_example, rounds_example, weak_pixel_example
from report.folds import fold_tables, length_tables, missing_folds
from report.readings import gains
from report.record import RESULTS, ROOT
from report.repeats import repeat_rows
from report.runs import gallery_cards, load_runs, methods_of, missing_runs, statistics

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
BENCHMARKS = {
    "loss": "python -m benchmarks.loss",
    "parallel_cpu": "python -m benchmarks.parallel_loss",
    "parallel_cuda": "python -m benchmarks.parallel_loss --device cuda",
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
        "loss_settings": loss_settings(found),
        "budgets": budgets(found, results),
        "trials": trial_table(results),
        "rates": rate_tables(results),
        "seed_range": [
            run["scores"]["agglomeration"]["validation_cremi"]
            for run in found.get(("isbi2012", "unet-both"), {}).values()
        ],
        "recipes": recipes(),
        "repeats": repeat_rows(results),
        "margin": _read(results / "margin.json"),
        "folds": fold_tables(results),
        "lengths": length_tables(results),
        "fold_runs": sum(
            len(list(results.glob(kind))) for kind in ("folds/*.json", "lengths/*/*.json")
        ),
        "readings": gains(results),
        "missing_folds": missing_folds(results),
        "has_validation": any(
            run.get("validation_curve") for by_seed in found.values() for run in by_seed.values()
        ),
        "missing": missing_runs(found),
        **{name: _read(results / f"benchmark_{name}.json") for name in BENCHMARKS},
        "speed": speed_facts(_read(results / "benchmark_loss.json")),
        "quality": segmentation_table(quality) if quality else None,
        "earlier": json.loads((ROOT / "report" / "earlier.json").read_text()),
        "gallery": gallery_cards(found),
        "examples": {
            "weak_pixel": weak_pixel_example().numbers,
            "grid": grid_example().numbers,
            "rounds": rounds_example(),
        },
    }


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
                "times_as_fast_walk": row["two_bpt_canonical_s"] / row["pair_counts_s"],
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


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as 128 × 128, without a batch of one."""
    return " × ".join(str(size) for size in shape if size > 1)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _sources(results: Path) -> list[dict[str, Any]]:
    """Name what the numbers come from, with dates, revisions and a mark of the contents."""
    names = [f"benchmark_{name}.json" for name in BENCHMARKS] + [
        "segmentation_quality.json",
        "margin.json",
    ]
    groups = {name: [results / name] for name in names}
    for data in DATA:
        groups[f"runs/{data}_*.json"] = [
            path
            for method in methods_of(data)
            for path in sorted((results / "runs").glob(f"{data}_{method}_*.json"))
        ]
    for folder in ("folds", "repeats", "trials"):
        groups[f"{folder}/*.json"] = sorted((results / folder).glob("*.json"))
    groups["lengths/*/*.json"] = sorted((results / "lengths").glob("*/*.json"))
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
