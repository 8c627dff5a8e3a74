"""The tables of the Markdown pages, from the measured results: ``python -m report.pages``.

A page marks the place of a table with two comments; what stands between them is written by code::

    <!-- table: isbi2012 -->
    | ... |
    <!-- end -->

The sentences around them are written by hand; tests compare their numbers with the results.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cremi_eval.atomic import atomic_write
from report.gallery import picture_table
from report.record import ROOT
from report.table import fold_rows, length_rows, summary, table

PAGES = ("README.md", "report/README.md")
TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "pictures": picture_table,
    "folds": fold_rows,
    "lengths": length_rows,
    "isbi2012": partial(table, "isbi2012"),
    "fib25": partial(table, "fib25"),
    "fib25_neighbours": partial(table, "fib25_neighbours"),
    "fib25_volume": partial(table, "fib25_volume"),
    "cremi_crop": partial(table, "cremi_crop"),
    "synthetic": partial(table, "synthetic"),
}
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(\n<!-- end -->)", re.S)


def filled(text: str) -> str:
    """Put the tables of the results into a page.

    Parameters
    ----------
    text : str
        Of the page.

    Returns
    -------
    str
        The same with the tables as they are now.

    Raises
    ------
    KeyError
        If the page asks for a table that is not in `TABLES`.
    """
    return PLACE.sub(lambda place: place[1] + TABLES[place[2]]() + place[3], text)


def update(root: Path = ROOT) -> list[Path]:
    """Write the tables of all pages anew; a page that does not change is not touched.

    Parameters
    ----------
    root : Path
        Folder that holds the pages.

    Returns
    -------
    list of Path
        The pages that changed.
    """
    changed = []
    for page in (root / name for name in PAGES):
        before = page.read_text()
        after = filled(before)
        if after != before:
            with atomic_write(page) as temporary:
                temporary.write_text(after)
            changed.append(page)
    return changed


def main() -> None:
    """Run the command line."""
    for page in update():
        print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
