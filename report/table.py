"""The table of results as Markdown: ``python -m report.table synthetic``."""

import argparse
import json
from collections import defaultdict
from statistics import mean, stdev
from typing import Any

from report.configurations import DATA, METHODS
from report.record import RESULTS

COLUMNS = {
    "VOI split": ("agglomeration", "voi_split"),
    "VOI merge": ("agglomeration", "voi_merge"),
    "Rand": ("agglomeration", "adapted_rand_error"),
    "CREMI score": ("agglomeration", "cremi_score"),
    "CREMI score, threshold + watershed": ("threshold_watershed", "cremi_score"),
}


def load_runs(data: str) -> dict[str, list[dict[str, Any]]]:
    """Read the results of all runs on one volume.

    Parameters
    ----------
    data : str
        Key of `report.configurations.DATA`.

    Returns
    -------
    dict of lists
        The runs of each method, by seed.
    """
    runs = defaultdict(list)
    for path in sorted((RESULTS / "runs").glob(f"{data}_*.json")):
        run = json.loads(path.read_text())
        runs[run["method"]].append(run)
    return dict(runs)


def table(data: str) -> str:
    """Write the results of one volume as a Markdown table.

    Parameters
    ----------
    data : str
        Key of `report.configurations.DATA`.

    Returns
    -------
    str
        A row a method; mean over seeds, and standard deviation where there are several. Rand is 1
        minus the adapted Rand error.
    """
    lines = [["", *COLUMNS, "seeds"], ["---"] * (len(COLUMNS) + 2)]
    runs = load_runs(data)
    for method in METHODS:
        if method not in runs:
            continue
        cells = []
        for name, (kind, score) in COLUMNS.items():
            values = [run["scores"][kind]["mean"][score] for run in runs[method]]
            values = [1 - value for value in values] if name == "Rand" else values
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}")
        lines.append([METHODS[method].title, *cells, str(len(runs[method]))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=DATA)
    print(table(parser.parse_args().data))


if __name__ == "__main__":
    main()
