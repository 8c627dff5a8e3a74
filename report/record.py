"""Results: what was measured, by which code, where and when.

Runs are three tables in ``report/results``, see `add_rows`: ``runs.csv``, a row a run;
``scores.csv.gz``, a row for everything that a run scored; ``curves.csv.gz``, a row a point. What
was measured once, as the times of ``benchmarks/``, is a JSON file beside them.
"""

import gzip
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from cremi_eval.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "report" / "results"
PACKAGES = ("torch", "higra", "numpy", "numba", "scipy", "h5py", "scikit-image", "monai")
TABLES = {
    "runs.csv": [
        *("run", "study", "data", "split", "method", "network", "loss", "steps", "seed"),
        *("batch_size", "precision", "learning_rate", "parameters"),
        *("device", "processor", "versions", "date", "revision"),
        *("seconds_data", "seconds_network", "seconds_loss", "settings"),
    ],
    "scores.csv.gz": [
        *("run", "reading", "part", "section", "threshold", "inside", "open_ended"),
        *("voi_split", "voi_merge", "adapted_rand_error"),
        *("rand_precision", "rand_recall", "cremi_score"),
    ],
    "curves.csv.gz": [
        *("run", "curve", "step", "threshold"),
        *("loss", "voi_split", "voi_merge", "cremi_score"),
    ],
}
DECIMALS = {  # thresholds of scores are kept as they are
    "scores.csv.gz": dict.fromkeys(TABLES["scores.csv.gz"][7:], 6),
    "curves.csv.gz": dict.fromkeys(TABLES["curves.csv.gz"][3:], 4),
}


def read_table(name: str, results: Path = RESULTS) -> pd.DataFrame:
    """Read a table of the results, a key of `TABLES`; ``settings`` are decoded.

    It has no row where there is no such file.
    """
    path = results / name
    if not path.exists():
        return pd.DataFrame(columns=TABLES[name])
    table = pd.read_csv(path)
    if "settings" in table:
        table["settings"] = table["settings"].map(json.loads)
    return table


def add_rows(rows: dict[str, Sequence[dict[str, Any]]], results: Path = RESULTS) -> None:
    """Put runs into the tables, in the place of earlier ones of the same name.

    ``rows`` has new rows by key of `TABLES`, those of one run in one call, each with its name. In
    scores, ``part`` is "validation", the mean over all validation sections at the threshold that
    they choose, or "test", a section, or a volume by its first section; ``open_ended`` says whether
    the threshold is the last that was tried. In curves over steps, ``curve`` is "training" or
    "validation". Several processes may add rows at once: each waits for the others, and no row is
    lost.
    """
    results.mkdir(parents=True, exist_ok=True)
    replaced = {run["run"] for run in rows["runs.csv"]}
    with FileLock(results / ".lock"):
        for name in reversed(TABLES):  # a run is listed when its scores are complete
            path = results / name
            table = pd.DataFrame(rows[name], columns=TABLES[name]).round(DECIMALS.get(name, {}))
            if name == "runs.csv":
                table["settings"] = table["settings"].map(json.dumps)
            if path.exists():
                old = pd.read_csv(path, dtype=str, keep_default_na=False)
                table = pd.concat([old[~old["run"].isin(replaced)], table.astype(object)])
            table = table.sort_values("run", kind="stable")
            content = table.to_csv(index=False, lineterminator="\n").encode()
            with atomic_write(path) as temporary:  # the same table, the same bytes
                packed = gzip.compress(content, mtime=0) if path.suffix == ".gz" else content
                temporary.write_bytes(packed)


def environment(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine, the versions and the moment."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "device": _device_name(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def revision(root: Path = ROOT) -> str | None:
    """Name the commit that is checked out."""
    commit = _git("describe", "--always", root=root)
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!report/results", root=root
    )
    return f"{commit}-dirty" if commit and changed else commit


def write_results(name: str, results: dict[str, Any], *, device: str = "cpu") -> Path:
    """Write ``report/results/<name>.json``: the results and the environment they come from."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"environment": environment(device), **results}, indent=1) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text)
    return path


def _git(*arguments: str, root: Path = ROOT) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return device


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
