"""Turn the JSON files of all runs into the tables of `report.record`, and compare.

    python -m report.convert

Builds the JSON files anew from the tables and compares what becomes of both: every number that the
report, the slides, README.md, report/README.md and the notebooks take from the results, and the
text of both PDFs. Run once.
"""

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pypdf

from report import build, pages, runs, table
from report.configurations import DATA, fold_of
from report.folds import fold_tables, length_tables
from report.gathered import collect
from report.readings import gains
from report.record import RESULTS, TABLES, add_rows, read_table

STUDIES = {"runs": "seeds", "folds": "folds", "lengths": "folds", "trials": "trials"}
STUDIES["repeats"] = "repeats"
SETTINGS = ("source", "split", "first_section", "patch", "boundary", "neighbours", "losses")
VALUES = ("voi_split", "voi_merge", "adapted_rand_error", "rand_precision", "rand_recall")


def files(results: Path) -> list[Path]:
    """List the JSON files of all runs."""
    return [
        path
        for path in sorted(results.rglob("*.json"))
        if path.relative_to(results).parts[0] in STUDIES
    ]


def rows_of(path: Path, results: Path) -> tuple[dict, list[dict], list[dict]]:
    """Make the rows of a run, its scores and its curves."""
    content = json.loads(path.read_text())
    environment = content["environment"]
    study = STUDIES[path.relative_to(results).parts[0]]
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", content["method"])
    network, loss = content["title"].split(", ", 1)
    split = {
        name: range(*map(int, re.findall(r"\d+", text))) for name, text in content["split"].items()
    }
    run = {
        "run": f"{study}/{content['data']}/{slug}/{content['steps']}/{content['seed']}",
        "study": study,
        "split": ", ".join(f"{name} {one[0]}-{one[-1]}" for name, one in split.items()),
        "network": network,
        "loss": loss,
        "learning_rate": content["peak_learning_rate"],
        "versions": ", ".join(
            f"{name} {one}" for name, one in environment["versions"].items() if one
        ),
        **{
            name: content[name]
            for name in ("data", "method", "steps", "seed", "batch_size", "precision", "parameters")
        },
        **{name: environment[name] for name in ("device", "processor", "date", "revision")},
        **{f"seconds_{name}": seconds for name, seconds in content["seconds_per_step"].items()},
        "settings": {name: content[name] for name in SETTINGS if name in content}
        | {
            "threads": content["threads"],
            "cores": environment["cores"],
            "system": environment["system"],
        },
    }
    scores: list[dict[str, Any]] = []
    curves = [
        {"curve": name, "step": step, column: value}
        for name, column, values in (
            ("training", "loss", content["learning_curve"]),
            ("validation", "cremi_score", content["validation_curve"]),
        )
        if values
        for step, value in zip(values["step"], values[column], strict=True)
    ]
    flat = len(content["patch"]) == 2
    sections = split["test"] if flat else split["test"][:1]
    first = content.get("first_section", 0)
    for reading, part in content["scores"].items():
        if reading.endswith("agglomeration"):  # is one of the linkages
            continue
        common = {
            "reading": reading,
            "threshold": part["threshold"],
            "open_ended": runs.is_open_ended(content, reading),
        }
        scores.append({**common, "part": "validation", "cremi_score": part["validation_cremi"]})
        for section, one in zip(
            sections, part.get("sections", [None] * len(sections)), strict=True
        ):
            if one:
                number = (first + section) % split["test"].stop
                values = {name: one[name] for name in (*VALUES, "cremi_score")}
                scores.append({**common, "part": "test", "section": number, **values})
        for name in ("validation", "test"):
            cuts = part.get(f"{name}_curve")
            if cuts is None and name == "validation" and "candidates" in part:
                tried = part["candidates"]
                cuts = {"thresholds": tried["threshold"], "cremi": tried["validation_cremi"]}
            for number in range(len(cuts["thresholds"]) if cuts else 0):
                point = {key.removesuffix("s"): values[number] for key, values in cuts.items()}
                point["cremi_score"] = point.pop("cremi")
                curves.append({"curve": f"{name} cuts", "reading": reading, **point})
    return run, scores, curves


def rebuilt(target: Path, results: Path) -> None:
    """Write the JSON files of all runs as the tables have them."""
    table_of_runs, scores, curves = (read_table(name, results) for name in TABLES)
    folders = {study: folder for folder, study in STUDIES.items() if folder != "lengths"}
    for row in table_of_runs.to_dict("records"):
        folder = folders[row["study"]]
        if folder == "folds" and row["steps"] != fold_of(row["data"], 0).steps:
            folder = f"lengths/{row['steps']}"
        own = scores[scores["run"] == row["run"]]
        points = curves[curves["run"] == row["run"]]
        versions = dict(one.split(" ") for one in row["versions"].split(", "))
        content = {
            "environment": {
                "versions": versions,
                **{name: row[name] for name in ("device", "processor", "date", "revision")},
                **{name: row["settings"][name] for name in ("cores", "system")},
            },
            "title": f"{row['network']}, {row['loss']}",
            "peak_learning_rate": row["learning_rate"],
            **{
                name: row[name]
                for name in (
                    "data",
                    "method",
                    "steps",
                    "seed",
                    "batch_size",
                    "precision",
                    "parameters",
                )
            },
            **{
                name: row["settings"][name]
                for name in (*SETTINGS, "threads")
                if name in row["settings"]
            },
            "seconds_per_step": {
                name: row[f"seconds_{name}"] for name in ("data", "network", "loss")
            },
            "learning_curve": points[points["curve"] == "training"][["step", "loss"]].to_dict(
                "list"
            ),
            "validation_curve": points[points["curve"] == "validation"][
                ["step", "cremi_score"]
            ].to_dict("list"),
            "scores": {},
        }
        for reading, group in own.groupby("reading"):
            (choice,) = group[group["part"] == "validation"].to_dict("records")
            test = group[group["part"] == "test"]
            part = {"threshold": choice["threshold"], "validation_cremi": choice["cremi_score"]}
            cuts = points[(points["curve"] == "validation cuts") & (points["reading"] == reading)]
            if reading.endswith("watershed") and len(cuts):
                part["candidates"] = {"threshold": cuts["threshold"].tolist()}
            if len(test):
                each = test[[*VALUES, "cremi_score"]]
                part["sections"] = each.to_dict("records")
                part["mean"] = each.mean().to_dict()
            content["scores"][reading] = part
        linkage = (
            DATA[row["data"]].linkage
            if row["study"] != "folds"
            else fold_of(row["data"], 0).linkage
        )
        for prefix in ("", "views_"):
            if prefix + linkage in content["scores"]:
                content["scores"][f"{prefix}agglomeration"] = content["scores"][prefix + linkage]
        slug = re.sub(r"[^A-Za-z0-9.-]+", "-", row["method"])
        path = target / folder / f"{row['data']}_{slug}_{row['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def differences(one: Any, other: Any, tolerance: float, path: str = "") -> list[str]:
    """Name the places in which two JSON-able things differ, numbers by more than a tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [
            found
            for key in keys
            for found in (
                differences(one[key], other[key], tolerance, f"{path}/{key}")
                if key in one and key in other
                else [f"{path}/{key}: missing"]
            )
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, tolerance, f"{path}/{i}")]
    if isinstance(one, float) and isinstance(other, int | float):
        return (
            []
            if math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
            else [f"{path}: {one} {other}"]
        )
    return [] if one == other else [f"{path}: {one} {other}"]


def numbers_of(results: Path) -> dict[str, Any]:
    """Gather what the documents take from the results, but the marks of the files."""
    with mock.patch.object(table, "load_runs", lambda: runs.load_runs(results)):
        texts = {name: pages.TABLES[name]() for name in ("summary", *DATA)}
    rows = [
        table._fold_rows({f"{one['title']}, {one['labels']}, {one['steps']}": one for one in made})
        for made in (fold_tables(results), length_tables(results))
    ]
    numbers = collect(results)
    for source in numbers["sources"]:
        del source["mark"]
    return {"collect": numbers, "gains": gains(results), "tables": texts, "folds": rows}


def text_of(results: Path) -> dict[str, str]:
    """Build both PDFs and return their text, without the marks of the files."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for path in build.build(Path(folder), results):
            text = "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)
            found[path.name] = re.sub(r"\b[0-9a-f]{8}\b", "", text)
        return found


def main() -> None:
    """Convert, build anew and compare."""
    made = [rows_of(path, RESULTS) for path in files(RESULTS)]
    add_rows(
        {
            "runs.csv": [run for run, _, _ in made],
            "scores.csv.gz": [
                {"run": run["run"], **one} for run, scores, _ in made for one in scores
            ],
            "curves.csv.gz": [
                {"run": run["run"], **one} for run, _, curves in made for one in curves
            ],
        }
    )
    print({name: len(read_table(name)) for name in TABLES})
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder)
        rebuilt(again, RESULTS)
        for path in RESULTS.glob("*.json"):
            (again / path.name).write_bytes(path.read_bytes())
        found = []
        for path in files(RESULTS):
            before, after = (
                json.loads((root / path.relative_to(RESULTS)).read_text())
                for root in (RESULTS, again)
            )
            for content in (before, after):
                content["scores"] = {
                    kind: {
                        key: part[key]
                        for key in ("threshold", "validation_cremi", "sections", "mean")
                        if key in part
                    }
                    for kind, part in content["scores"].items()
                    if not kind.endswith("agglomeration")  # is one of the linkages
                }
                for part in content["scores"].values():
                    for one in [*part.get("sections", []), part.get("mean", {})]:
                        one.pop("voi_sum", None)
                content.pop("learning_curve"), content.pop("validation_curve")
                content["environment"]["versions"] = {
                    k: v for k, v in content["environment"]["versions"].items() if v
                }
            found += [f"{path.name}{one}" for one in differences(before, after, 1e-6)]
        print("runs:", found or "the same")
        before, after = numbers_of(RESULTS), numbers_of(again)
        found = differences(before["collect"], after["collect"], 2e-6)
        found += differences(before["gains"], after["gains"], 2e-6)
        print("numbers of the documents:", found or "the same")
        print(
            "tables of the pages:",
            before["tables"] == after["tables"] and before["folds"] == after["folds"],
        )
        print("text of the PDFs:", text_of(RESULTS) == text_of(again))


if __name__ == "__main__":
    main()
