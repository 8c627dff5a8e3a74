"""Report.pdf and presentation.pdf from the measured results: ``make report``.

    python -m report.build          both PDFs, and the tables of `report.pages`

Everything is gathered in one folder: the sources in ``report/``, one JSON with all numbers (see
`report.tables`), the figures as vectors, the pictures of tissue. Typst compiles it with the fonts
that it brings. The same results give the same pages on every machine; a warning of typst, as for
a missing font, is an error.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import typst

from cremi_eval.atomic import atomic_write
from report import diagrams, figures, pages
from report.record import RESULTS, ROOT
from report.tables import collect

SOURCES = ROOT / "report"
DOCUMENTS = {"report.typ": "Report.pdf", "presentation.typ": "presentation.pdf"}
FIGURES: dict[str, Callable[[Path], plt.Figure]] = {
    "cost": figures.draw_cost,
    "gain": figures.draw_gain,
    "lengths": figures.draw_lengths,
}
DIAGRAMS: dict[str, Callable[[], plt.Figure]] = {
    "weak_pixel": diagrams.draw_weak_pixel,
    "grid": diagrams.draw_grid,
    "one_tree": diagrams.draw_one_tree,
    "grid_affinities": partial(diagrams.draw_grid, diagrams.PANELS[:1]),
    "grid_tree": partial(diagrams.draw_grid, diagrams.PANELS[1:2]),
    "grid_plain": partial(diagrams.draw_grid, diagrams.PANELS[2:3]),
    "grid_constrained": partial(diagrams.draw_grid, diagrams.PANELS[3:]),
}


class BuildError(RuntimeError):
    """A document cannot be compiled, or typst has something to say about it."""


def gather(folder: Path, results: Path = RESULTS) -> dict[str, Any]:
    """Put sources, numbers and figures into a folder from which typst can compile."""
    drawn = folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    for source in (*SOURCES.glob("*.typ"), SOURCES / "references.bib"):
        shutil.copy(source, folder)
    shutil.copytree(SOURCES / "chapters", folder / "chapters", dirs_exist_ok=True)
    shutil.copytree(figures.FIGURES, drawn, dirs_exist_ok=True)
    for name, draw in FIGURES.items():
        figures.save_vector(draw, drawn / f"{name}.svg", results)
    for name, draw in DIAGRAMS.items():
        figures.save_vector(draw, drawn / f"{name}.svg")
    numbers = {**collect(results), "gallery": pages.gallery_cards()}
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return numbers


def compile_documents(folder: Path, target: Path, date: str) -> list[Path]:
    """Compile both documents; those that are there are replaced when both are complete."""
    made = {}
    for source, name in DOCUMENTS.items():
        compiler = typst.Compiler(folder / source, root=folder, ignore_system_fonts=True)
        try:
            content, warnings = compiler.compile_with_warnings(
                format="pdf", timestamp=datetime.fromisoformat(date)
            )
        except typst.TypstError as error:
            raise BuildError(error.diagnostic) from None
        if warnings:
            raise BuildError("\n".join(f"{source}: {warning}" for warning in warnings))
        made[target / name] = content
    for path, content in made.items():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return list(made)


def build(target: Path = ROOT, results: Path = RESULTS, keep: Path | None = None) -> list[Path]:
    """Draw the figures and compile both documents; return the PDFs.

    ``keep`` is a folder that keeps what they are compiled from. Raises `BuildError` if typst fails
    or warns.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep
        numbers = gather(folder, results)
        return compile_documents(folder, target, numbers["date"])


def main() -> None:
    """Run the command line."""
    mpl.use("Agg")
    for path in [*pages.update(), *build()]:
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
