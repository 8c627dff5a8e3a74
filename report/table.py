"""The table of results as Markdown: ``python -m report.table synthetic``."""

import argparse
from statistics import mean, stdev

from report.configurations import DATA, METHODS
from report.runs import is_open_ended, load_runs

COLUMNS = {
    "VOI split": ("agglomeration", "voi_split"),
    "VOI merge": ("agglomeration", "voi_merge"),
    "Rand": ("agglomeration", "adapted_rand_error"),
    "CREMI score": ("agglomeration", "cremi_score"),
    "CREMI score, all views": ("views_agglomeration", "cremi_score"),
    "CREMI score, threshold + watershed": ("threshold_watershed", "cremi_score"),
}


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
        minus the adapted Rand error. An asterisk marks scores of which one or more belong to the
        last threshold that was tried, see `report.runs.is_open_ended`.
    """
    lines = [["", *COLUMNS, "seeds"], ["---"] * (len(COLUMNS) + 2)]
    runs = {method: list(r.values()) for (name, method), r in load_runs().items() if name == data}
    for method in METHODS:
        if method not in runs:
            continue
        cells = []
        for name, (kind, score) in COLUMNS.items():
            values = [run["scores"][kind]["mean"][score] for run in runs[method]]
            values = [1 - value for value in values] if name == "Rand" else values
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            mark = r" \*" if any(is_open_ended(run, kind) for run in runs[method]) else ""
            cells.append(f"{mean(values):.3f}{spread}{mark}")
        lines.append([METHODS[method].title, *cells, str(len(runs[method]))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=DATA)
    print(table(parser.parse_args().data))


if __name__ == "__main__":
    main()
