"""The tables of results as Markdown: ``python -m report.table synthetic``."""

import argparse
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from report.configurations import DATA, METHODS
from report.folds import fold_tables, length_tables
from report.runs import MAIN, is_open_ended, load_runs, score_of, title_of

SUMMARY = ("isbi2012", "fib25", "fib25_neighbours", "synthetic")
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
    lines = [["", *COLUMNS, "seeds"]]
    runs = {method: list(r.values()) for (name, method), r in load_runs().items() if name == data}
    for method in METHODS:
        if method not in runs:
            continue
        cells = []
        for name, (kind, score) in COLUMNS.items():
            values = [run["scores"][kind]["mean"][score] for run in runs[method]]
            values = [1 - value for value in values] if name == "Rand" else values
            mark = r" \*" if any(is_open_ended(run, kind) for run in runs[method]) else ""
            cells.append(_mean(values) + mark)
        lines.append([METHODS[method].title, *cells, str(len(runs[method]))])
    return markdown(lines)


def summary() -> str:
    """Write the CREMI scores after agglomeration of all methods and volumes in two dimensions.

    Returns
    -------
    str
        A row a method, a column a volume of `SUMMARY`; mean over seeds, and standard deviation
        where there are several. A dash where nothing was run.
    """
    found = load_runs()
    lines = [["", *(title_of(data) for data in SUMMARY)]]
    for method in METHODS:
        runs = [found.get((data, method), {}).values() for data in SUMMARY]
        if any(runs):
            scores = [[score_of(run, "cremi_score", MAIN) for run in column] for column in runs]
            cells = [_mean(column) if column else "–" for column in scores]
            lines.append([METHODS[method].title, *cells])
    return markdown(lines)


def fold_rows() -> str:
    """Write what `report.folds.fold_tables` says of all cross-validations.

    Returns
    -------
    str
        A row for each pair of methods and each reading; differences with standard errors.
    """
    return _fold_rows({f"{one['title']}, {one['labels']}": one for one in fold_tables()})


def length_rows() -> str:
    """Write what `report.folds.length_tables` says of shorter and longer trainings.

    Returns
    -------
    str
        As `fold_rows`.
    """
    return _fold_rows(
        {f"{one['title']}, {one['labels']}, {one['steps']} steps": one for one in length_tables()}
    )


def _fold_rows(tables: dict[str, dict[str, Any]]) -> str:
    lines = [["", "read by", "cross-entropy", "with MALIS", "difference", "folds lower"]]
    for title, one in tables.items():
        name = title
        for row in one["rows"]:
            mark = r" \*" if row["open_ended"] else ""
            scores = [f"{row[key]:.3f}" for key in ("theirs", "ours")]
            difference = f"{row['difference']:+.3f} ± {row['error']:.3f}{mark}"
            lower = f"{row['lower_folds']} of {one['folds']}"
            lines.append([name, row["name"], *scores, difference, lower])
            name = ""
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write cells as a Markdown table; the first line is its head."""
    head, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=DATA)
    print(table(parser.parse_args().data))


if __name__ == "__main__":
    main()
