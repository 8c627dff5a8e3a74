"""What the results say: means, differences and their errors, for text, tables and figures.

Everything is a statistic of the tables of `report.record`. A score is that of one section, or of a
volume in 3D; a mean is taken over sections, then over seeds or folds.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from report.configurations import DATA, FOLDS, METHODS, Ablation, Data, ablations_of, fold_of
from report.examples import grid_example, weak_pixel_example
from report.record import RESULTS, read_table
from report.scores import VIEWS

TITLES = {
    "snemi3d": "SNEMI3D in 3D",
    "fib25_slab": "FIB-25 in 3D, slabs",
    "fib25_volume": "FIB-25 in 3D",
    "fib25_neighbours": "FIB-25, neighbours",
    "fib25": "FIB-25, sections",
    "isbi2012": "ISBI 2012",
    "synthetic": "Synthetic sample",
    "cremi_crop": "CREMI B, crop",
}
MAIN = "agglomeration"
READINGS = {  # from a single edge to a whole boundary
    "connected_components": "connected components",
    "threshold_watershed": "threshold + watershed",
    "single_linkage": "single linkage",
    "quantile75": "75 % quantile",
    "mean_linkage": "mean linkage",
}
SHOWN = {
    MAIN: "agglomeration",
    f"{VIEWS}{MAIN}": "agglomeration, all views",
    "threshold_watershed": "threshold + watershed",
    f"{VIEWS}threshold_watershed": "threshold + watershed, all views",
}
UNITS = {"folds": "slabs", "seeds": "seeds"}
BENCHMARKS = ("loss", "parallel_cpu", "parallel_cuda", "segmentation", "evaluation")
# The rows of the headline: for each the methods that it may be, of which validation chooses one.
HEADLINE = {
    "cross-entropy": ("unet-cross-entropy", "unet-cross-entropy-as-labelled"),
    "MALIS, after cross-entropy": ("unet-ce-then-malis",),
    "both losses": ("unet-both", "unet-both-malis-margin"),
}
HEADLINE_DATA = ("snemi3d", "fib25_slab", "isbi2012")
SEEDED = ("snemi3d", "fib25_slab")  # volumes with one split, of which seeds are compared


def source_of(study: str, data: str) -> Data:
    """Return the configuration of a volume in a study."""
    return fold_of(data, 0) if study == "folds" else DATA[data]


def load_scores(results: Path = RESULTS) -> pd.DataFrame:
    """Read the scores of all runs, with what they are scores of.

    The reading `MAIN` is added: the agglomeration with the linkage that validation chose.
    """
    columns = ["run", "study", "data", "method", "steps", "seed"]
    scores = read_table("scores.csv.gz", results)
    scores = scores.merge(read_table("runs.csv", results)[columns], on="run")
    if scores.empty:
        return scores
    keys = list(zip(scores["study"], scores["data"], strict=True))
    linkages = {key: source_of(*key).linkage for key in set(keys)}
    own = pd.Series(map(linkages.get, keys))
    main = scores[scores["reading"].str.removeprefix(VIEWS) == own]
    main = main.assign(
        reading=main["reading"].str.startswith(VIEWS).map({True: VIEWS + MAIN, False: MAIN})
    )
    return pd.concat([scores, main], ignore_index=True)


def means_of_runs(scores: pd.DataFrame, **chosen: Any) -> pd.DataFrame:
    """Average the scores of test sections in each run; columns as in the scores."""
    part = _select(scores, part="test", **chosen)
    keys = ["study", "data", "method", "steps", "seed", "reading"]
    columns = ["voi_split", "voi_merge", "adapted_rand_error", "cremi_score"]
    return part.groupby(keys)[columns].mean().reset_index()


def statistic(values: pd.Series) -> dict[str, Any] | None:
    """Return mean, standard deviation (None for one value) and number; None for no value."""
    if values.empty:
        return None
    spread = float(values.std()) if len(values) > 1 else None
    return {"mean": float(values.mean()), "spread": spread, "n": len(values)}


def compare(
    scores: pd.DataFrame, study: str, data: str, ablation: Ablation, steps: int
) -> pd.DataFrame:
    """Compare a method with its baseline, reading by reading, on the same held-out tissue.

    A row a reading: mean CREMI scores, their difference with its standard error over folds or
    seeds, in how many pairs of runs ours is lower, VOI of both, and whether a threshold is the last
    that was tried. No row where fewer than two pairs exist.
    """
    methods = [ablation.method, ablation.baseline]
    own = _select(scores, study=study, data=data, steps=steps, part="test", method=methods)
    columns = ["cremi_score", "voi_split", "voi_merge", "open_ended"]
    wide = own.pivot(index=["reading", "seed", "section"], columns="method", values=columns)
    if len(wide.columns) < 2 * len(columns):
        return pd.DataFrame()
    wide = wide.dropna().astype(float)
    ours, theirs = wide.xs(methods[0], axis=1, level=1), wide.xs(methods[1], axis=1, level=1)
    difference = ours["cremi_score"] - theirs["cremi_score"]
    by_pair = difference.groupby(["reading", "seed"]).mean()
    means = [one.groupby("reading").mean() for one in (ours, theirs)]
    found = pd.DataFrame(
        {
            "ours": means[0]["cremi_score"],
            "theirs": means[1]["cremi_score"],
            "difference": difference.groupby("reading").mean(),
            "error": by_pair.groupby("reading").sem(),
            "lower": (by_pair < 0).groupby("reading").sum(),
            "pairs": by_pair.groupby("reading").size(),
            "pieces": difference.groupby("reading").size(),
            "open_ended": means[0]["open_ended"] + means[1]["open_ended"] > 0,
        }
    )
    for name in ("voi_split", "voi_merge"):
        found[f"{name}_ours"], found[f"{name}_theirs"] = (one[name] for one in means)
    return found[found["pairs"] > 1]


def validated(
    scores: pd.DataFrame, study: str, data: str, ablation: Ablation, steps: int
) -> dict[str, int]:
    """Count the readings and runs in which a method is ahead of its baseline on validation."""
    methods, readings = [ablation.method, ablation.baseline], list(READINGS)
    chosen = {"study": study, "data": data, "steps": steps, "method": methods, "reading": readings}
    own = _select(scores, part="validation", **chosen)
    wide = own.pivot(index=["reading", "seed"], columns="method", values="cremi_score").dropna()
    return {"lower": int((wide[methods[0]] < wide[methods[1]]).sum()), "of": len(wide)}


def comparisons(
    scores: pd.DataFrame, study: str = "folds", *, lengths: bool = False
) -> list[dict[str, Any]]:
    """Compare all pairs of methods that were run on the same folds, in a table each.

    With the study "seeds", those of `SEEDED`, run with the same seeds; with ``lengths``, pairs that
    were trained with several numbers of steps, and all of them.
    ``rows`` are those of `compare` for the readings `SHOWN`, ``all_rows`` those for `READINGS`.
    """
    every = READINGS | {VIEWS + key: f"{name}, all views" for key, name in READINGS.items()}
    tables = []
    for data in FOLDS if study == "folds" else SEEDED:
        source = source_of(study, data)
        steps = {source.steps} | (
            set(_select(scores, study=study, data=data)["steps"]) if lengths else set()
        )
        for ablation in ablations_of(data):
            found = {one: compare(scores, study, data, ablation, one) for one in sorted(steps)}
            found = {one: table for one, table in found.items() if len(table)}
            tables += [
                {
                    **{"key": data, "title": TITLES[data], "labels": ablation.title},
                    **{"steps": one, "study": study, "pairs": int(table["pairs"].max())},
                    "pieces": int(table["pieces"].max()),
                    "unit": "sections" if len(source.patch) == 2 else UNITS[study],
                    "linkage": READINGS[source.linkage],
                    "rows": _rows(table, SHOWN),
                    "all_rows": _rows(table, every),
                    "validation": validated(scores, study, data, ablation, one),
                }
                for one, table in found.items()
                if len(found) > lengths
            ]
    return tables


def headline(scores: pd.DataFrame) -> dict[str, Any]:
    """Choose by validation what each row is on each volume, and average its test scores.

    Columns are volumes; a cell is the chosen method with mean, spread over seeds or folds, and
    number, or None where nothing was run.
    """
    columns, rows = [], {name: [] for name in HEADLINE}
    for data in HEADLINE_DATA:
        study = "folds" if data in FOLDS else "seeds"
        steps = source_of(study, data).steps
        own = _select(scores, study=study, data=data, steps=steps, reading=MAIN)
        if own.empty:
            continue
        columns.append({"key": data, "title": TITLES[data], "unit": study})
        chosen = _select(own, part="validation").groupby("method")["cremi_score"].mean()
        tested = means_of_runs(own).set_index("method")["cremi_score"]
        for name, methods in HEADLINE.items():
            known = chosen[chosen.index.isin(methods)]
            method = known.idxmin() if len(known) else None
            cell = statistic(tested[[method]]) if method else None
            rows[name].append(cell and {"method": METHODS[method].title, **cell})
    return {"columns": columns, "rows": [{"name": n, "cells": cells} for n, cells in rows.items()]}


def seed_table(scores: pd.DataFrame, data: str) -> list[dict[str, Any]]:
    """Average over seeds: a row a method, with its test scores in every reading."""
    runs = means_of_runs(scores, study="seeds", data=data)
    rows = []
    for method in (method for method in METHODS if (runs["method"] == method).any()):
        found = dict(list(runs[runs["method"] == method].groupby("reading")))
        names = ("voi_split", "voi_merge", "adapted_rand_error")
        rows.append(
            {
                **{"method": method, "name": METHODS[method].title, "seeds": len(found[MAIN])},
                "readings": {key: statistic(part["cremi_score"]) for key, part in found.items()},
                **{name: statistic(found[MAIN][name]) for name in names},
            }
        )
    return rows


def repeated(scores: pd.DataFrame, data: str) -> dict[str, Any]:
    """Compare runs that were trained twice from the same seeds, on two kinds of processor."""
    keys = ["method", "seed"]
    first, second = (
        means_of_runs(scores, study=study, data=data, reading=MAIN).set_index(keys)["cremi_score"]
        for study in ("repeats", "seeds")
    )
    both = pd.concat([first, second], axis=1, keys=["first", "second"]).dropna()
    groups = both.groupby("method")
    methods = {key: {when: statistic(part[when]) for when in part} for key, part in groups}
    difference = float((both["first"] - both["second"]).abs().mean())
    return {"pairs": len(both), "difference": difference, "methods": methods}


def data_rows(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Describe the volumes that have runs: splits, patches, and steps in seeds and folds."""
    runs = read_table("runs.csv", results)
    rows = []
    for data, source in DATA.items():
        own = _select(runs, data=data, study=["seeds", "folds"])
        parts = {key: part for key, part in vars(source.split).items() if part}
        row = {"key": data, "title": TITLES[data], "source": source.source}
        row["split"] = {key: f"{p[0]}–{p[-1]}" if p[1:] else str(p[0]) for key, p in parts.items()}
        row["folds"] = FOLDS[data].count if "folds" in set(own["study"]) else 0
        row["steps"] = sorted({source_of(one, data).steps for one in set(own["study"])})
        for key in ("patch", "neighbours", "boundary", "batch", "test_volume"):
            row[key] = getattr(source, key)
        rows += [row] if len(own) else []
    return rows


def loss_share(results: Path = RESULTS) -> dict[str, float]:
    """Return which part of a step both losses take: in sections, on slabs and in a 3D U-Net."""
    runs = _select(read_table("runs.csv", results), method="unet-both")
    seconds = runs[["seconds_data", "seconds_network", "seconds_loss"]]
    kind = runs["settings"].map(
        lambda one: "sections" if len(one["patch"]) == 2 else "slabs" if one["neighbours"] else "3D"
    )
    return (seconds["seconds_loss"] / seconds.sum(axis=1)).groupby(kind).mean().to_dict()


def speed_facts(loss: dict[str, Any]) -> dict[str, Any]:
    """Derive the ratios that the text names from the benchmark of the loss."""
    sizes = []
    for row in loss["sizes"]:
        forms = ("pair_counts_s", "pair_counts_parallel_s", "pair_counts_numba_s")
        faster = min(row[form] for form in forms if form in row)
        ratios = {"faster_s": faster, "ratio": faster / row["two_bpt_canonical_s"]}
        ratios["times_as_fast"] = 1 / ratios["ratio"]
        sizes.append({**row, **ratios, "voxels": shape_text(row["shape"])})
    labels = pd.DataFrame(loss["labels"])
    return {
        "sizes": sizes,
        "largest": max(sizes, key=lambda row: row["edges"]),
        "labels_voxels": shape_text(loss["labels"][0]["shape"]),
        "label_numbers": labels["labels"].tolist(),
        "constrained_range": [labels["constrained_s"].min(), labels["constrained_s"].max()],
        "memory_voxels": shape_text(loss["memory"][0]["shape"]),
        "memory": {row["kind"]: row["bytes_per_edge"] for row in loss["memory"]},
        "environment": loss["environment"],
    }


def quality_table(quality: dict[str, Any]) -> dict[str, Any]:
    """Average the study beside waterz over its samples, volume by volume."""
    flat = pd.DataFrame(
        {"data": row["data"], "method": name, "cremi": found["test"]["cremi_score"]}
        for row in quality["rows"]
        for name, found in row["methods"].items()
    )
    wide = flat.pivot_table(index="data", columns="method", values="cremi", sort=False)
    ratios = pd.DataFrame(
        {"data": data, "function": function, **values}
        for data, functions in quality["times_waterz"].items()
        for function, values in functions.items()
    )
    others = ratios[ratios["function"] != "mean"]
    means = ratios[ratios["function"] == "mean"]
    errors = (others["cremi_score"] - 1).abs() / others["cremi_score_standard_error"]
    names = {**TITLES, "fib25": TITLES["fib25_volume"], "fib25_sections": TITLES["fib25"]}
    return {
        "waterz": quality["waterz"],
        "samples": int(flat.groupby(["data", "method"]).size().max()),
        "rows": [{"title": names[key], "cells": row.to_dict()} for key, row in wide.iterrows()],
        "mean_identical": bool((means[["cremi_score", "voi_sum"]] - 1).abs().max(axis=None) < 1e-6),
        "ratio_range": [others["cremi_score"].min(), others["cremi_score"].max()],
        "worst_standard_errors": float(errors.max()),
    }


def collect(results: Path = RESULTS) -> dict[str, Any]:
    """Gather every number of the report and the slides, JSON-able."""
    scores, runs = load_scores(results), read_table("runs.csv", results)
    benchmarks = {name: _read(results / f"benchmark_{name}.json") for name in BENCHMARKS}
    quality = _read(results / "benchmark_waterz.json")
    return {
        "date": runs["date"].max(),
        "runs": {study: int(n) for study, n in runs.groupby("study").size().items()},
        "n_runs": len(runs),
        "data": data_rows(results),
        "headline": headline(scores),
        "folds": comparisons(scores),
        "volumes": comparisons(scores, "seeds"),
        "lengths": comparisons(scores, lengths=True),
        "seeds": [
            {"key": data, "title": TITLES[data], "rows": rows}
            for data in DATA
            if (rows := seed_table(scores, data))
        ],
        "repeated": repeated(scores, "isbi2012"),
        "loss_share": loss_share(results),
        **benchmarks,
        "speed": speed_facts(benchmarks["loss"]),
        "quality": quality_table(quality),
        "examples": {
            "weak_pixel": weak_pixel_example().numbers,
            "grid": grid_example().numbers,
        },
    }


def shape_text(shape: list[int]) -> str:
    """Write a shape as 128 × 128, without a batch of one."""
    return " × ".join(str(size) for size in shape if size > 1)


def _select(table: pd.DataFrame, **chosen: Any) -> pd.DataFrame:
    """Take the rows that have the given values, or one of the given values, in columns."""
    for column, value in chosen.items():
        table = table[table[column].isin(value if isinstance(value, list) else [value])]
    return table


def _rows(table: pd.DataFrame, readings: dict[str, str]) -> list[dict[str, Any]]:
    known = [reading for reading in readings if reading in table.index]
    rows = table.loc[known].assign(name=[readings[one] for one in known]).rename_axis("key")
    return json.loads(rows.reset_index().to_json(orient="records", double_precision=15))


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None
