"""The tables and pictures of the Markdown pages, from the measured results.

A page marks the place of a table with two comments; what stands between them is written by code::

    <!-- table: summary -->
    | ... |
    <!-- end -->

The sentences around them are written by hand; tests compare their numbers with the results.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cremi_eval.atomic import atomic_write
from report.configurations import DATA, METHODS
from report.record import RESULTS, ROOT
from report.tables import MAIN, TITLES, comparisons, headline, load_scores, seed_table

PAGES = ("README.md", "report/README.md")
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
GALLERY = ROOT / "report" / "figures" / "gallery"


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Write all tables of the pages as Markdown."""
    scores = load_scores(results)
    return {
        "summary": _summary(headline(scores)),
        "pictures": _pictures(gallery_cards()),
        "volumes": _compared(comparisons(scores, "seeds"), rows="all_rows"),
        "folds": _compared(comparisons(scores)),
        "lengths": _compared(comparisons(scores, lengths=True), steps=True),
        "seeds": _seeds({data: seed_table(scores, data) for data in DATA}),
    }


def filled(text: str, made: dict[str, str]) -> str:
    """Put tables into a page; one that is not there raises `KeyError`."""
    return PLACE.sub(lambda place: place[1] + made[place[2]] + "\n" + place[3], text)


def update(root: Path = ROOT) -> list[Path]:
    """Write the tables of all pages anew; return those that changed, and touch no others."""
    changed, made = [], tables()
    for page in (root / name for name in PAGES):
        before = page.read_text(encoding="utf-8")
        after = filled(before, made)
        if after != before:
            with atomic_write(page) as temporary:
                temporary.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed


def gallery_cards(folder: Path = GALLERY) -> list[dict[str, Any]]:
    """Read the cards of all pictures of tissue, in the order of `DATA`."""
    paths = (folder / data / "card.json" for data in DATA)
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write cells as a Markdown table; the first line is its head."""
    head, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def _statistic(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    return f"{cell['mean']:.3f}" + (f" ± {cell['spread']:.3f}" if cell["spread"] else "")


def _summary(found: dict[str, Any]) -> str:
    titles = []
    for number, column in enumerate(found["columns"]):
        n = next(row["cells"][number]["n"] for row in found["rows"] if row["cells"][number])
        titles.append(f"{column['title']} ({n} {column['unit']})")
    rows = [[row["name"], *map(_statistic, row["cells"])] for row in found["rows"]]
    return markdown([["", *titles], *rows])


def _compared(found: list[dict[str, Any]], steps: bool = False, rows: str = "rows") -> str:
    lines = [["", "read by", "cross-entropy", "with MALIS", "difference", "lower in"]]
    for one in found:
        name = f"{one['title']}, {one['labels']}" + (f", {one['steps']} steps" if steps else "")
        for row in one[rows]:
            scores = [f"{row[key]:.3f}" for key in ("theirs", "ours")]
            difference = f"{row['difference']:+.3f} ± {row['error']:.3f}"
            difference += r" \*" if row["open_ended"] else ""
            lower = f"{row['lower']} of {row['pairs']}"
            lines.append([name, row["name"], *scores, difference, lower])
            name = ""
    return markdown(lines)


def _seeds(found: dict[str, list[dict[str, Any]]]) -> str:
    """Write CREMI scores of agglomerations: a row a method, a column a volume."""
    found = {data: rows for data, rows in found.items() if rows}
    lines = [["", *(TITLES[data] for data in found)]]
    for method, recipe in METHODS.items():
        rows = [next((r for r in rows if r["method"] == method), None) for rows in found.values()]
        if any(rows):
            cells = [_statistic(row and row["readings"][MAIN]) for row in rows]
            lines.append([recipe.title, *cells])
    return markdown(lines)


def _pictures(cards: list[dict[str, Any]]) -> str:
    """Write a row a volume: tissue, ground truth, segments in its colours, errors."""
    titles = ["tissue", "ground truth", "segmentation", "errors"]
    lines = [["", *titles]]
    for card in (card for card in cards if card["data"] != "synthetic"):
        method = list(card["networks"])[-1]
        place, names = f"report/figures/gallery/{card['data']}", (method, f"{method}_errors")
        pictures = zip(titles, ("raw", "truth", *names), strict=True)
        cells = [f"![{title}]({place}/{name}.png)" for title, name in pictures]
        loss = card["networks"][method]["title"].split(", ", 1)[1]
        lines.append([f"{card['title']}, section {card['section']}; {loss}", *cells])
    return markdown(lines)
