"""Report.pdf and presentation.pdf from the measured results: ``make report``.

    python -m report.build                 both PDFs, and the tables of `report.pages`
    python -m report.build --committed     without looking for newer networks and volumes
    python -m report.build --keep FOLDER   also keeps what the PDFs are compiled from

It says what has not been measured yet.

Everything is gathered in one folder: the sources in ``report/``, one JSON with all numbers (see
`report.gathered`), the figures as vectors, the pictures of tissue. Typst compiles it with the fonts
that it brings. The same results give the same pages on every machine; a warning of typst, as for
a missing font, is an error.
"""

import argparse
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
from report import diagrams, figures, gain_figures, pages
from report.canvas import save_vector
from report.configurations import DATA
from report.folds import missing_folds, open_ended_folds
from report.gathered import collect, missing_benchmarks
from report.record import RESULTS, ROOT
from report.runs import GALLERY, load_runs, missing_pictures, missing_runs, open_ended_runs

SOURCES = ROOT / "report"
DOCUMENTS = {"report.typ": "Report.pdf", "presentation.typ": "presentation.pdf"}
FIGURES: dict[str, Callable[..., plt.Figure | None]] = {
    "cost": figures.draw_cost,
    "phases": figures.draw_phases,
    "scores": figures.draw_scores,
    "folds": gain_figures.draw_folds,
    "readings": gain_figures.draw_readings,
    "lengths": gain_figures.draw_lengths,
    "learning": figures.draw_learning,
    "waterz": figures.draw_waterz,
}
DIAGRAMS: dict[str, Callable[[], plt.Figure]] = {
    "weak_pixel": diagrams.draw_weak_pixel,
    "grid": diagrams.draw_grid,
    "one_tree": diagrams.draw_one_tree,
    "rounds": diagrams.draw_rounds,
    "leaf_line": diagrams.draw_leaf_line,
    "grid_affinities": partial(diagrams.draw_grid, diagrams.PANELS[:1]),
    "grid_tree": partial(diagrams.draw_grid, diagrams.PANELS[1:2]),
    "grid_plain": partial(diagrams.draw_grid, diagrams.PANELS[2:3]),
    "grid_constrained": partial(diagrams.draw_grid, diagrams.PANELS[3:]),
}


class BuildError(RuntimeError):
    """A document cannot be compiled, or typst has something to say about it."""


def gather(folder: Path, results: Path = RESULTS) -> dict[str, Any]:
    """Put sources, numbers and figures into a folder from which typst can compile.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    results : Path
        Folder of the results.

    Returns
    -------
    dict
        The numbers.
    """
    drawn = folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    for source in (*SOURCES.glob("*.typ"), SOURCES / "references.bib"):
        shutil.copy(source, folder)
    shutil.copytree(SOURCES / "chapters", folder / "chapters", dirs_exist_ok=True)
    shutil.copytree(GALLERY, drawn / "gallery", dirs_exist_ok=True)
    for picture in ("road.png", "pull.png"):
        shutil.copy(figures.FIGURES / picture, drawn)
    numbers = collect(results)
    numbers["figures"] = []
    for name, draw in {**FIGURES, **DIAGRAMS}.items():
        arguments = (results,) if name in FIGURES else ()
        if save_vector(draw, drawn / f"{name}.svg", *arguments):
            numbers["figures"].append(name)
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return numbers


def compile_documents(folder: Path, target: Path, date: str) -> list[Path]:
    """Compile both documents.

    Parameters
    ----------
    folder : Path
        From `gather`.
    target : Path
        Folder of the PDFs; what is there is replaced when both are complete.
    date : str
        ISO date and time that the PDFs carry.

    Returns
    -------
    list of Path
        The PDFs.

    Raises
    ------
    BuildError
        If typst fails or warns.
    """
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
    """Draw the figures and compile both documents.

    Parameters
    ----------
    target : Path
        Folder of the PDFs.
    results : Path
        Folder of the results.
    keep : Path, optional
        Folder that keeps what the PDFs are compiled from.

    Returns
    -------
    list of Path
        The PDFs.

    Raises
    ------
    BuildError
        If typst fails or warns.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep
        numbers = gather(folder, results)
        return compile_documents(folder, target, numbers["date"])


def what_is_missing(results: Path = RESULTS) -> list[str]:
    """Say what the documents leave out because it was not measured, with a command for each.

    Parameters
    ----------
    results : Path
        Folder of the results.

    Returns
    -------
    list of str
    """
    found = load_runs(results)
    lines = [
        f"{len(group['methods']) * len(group['seeds'])} runs on {group['data']}: {group['command']}"
        for group in missing_runs(found)
    ]
    lines += [
        f"{len(group['methods']) * len(group['seeds'])} runs on {group['data']} to repeat, their "
        f"threshold is the last that was tried: {group['command']}"
        for group in open_ended_runs(found)
    ]
    lines += [
        f"{entry['runs']} runs of the cross-validation on {entry['data']}: {entry['command']}"
        for entry in missing_folds(results)
    ]
    lines += [
        f"{entry['runs']} runs of the cross-validation on {entry['data']} to repeat, their "
        f"threshold is the last that was tried: {entry['command']}"
        for entry in open_ended_folds(results)
    ]
    lines += [f"{entry['name']}: {entry['command']}" for entry in missing_benchmarks(results)]
    lines += [
        f"pictures of {data} (needs the volume and its trained networks): "
        f"python -m report.gallery --only {data}"
        for data in missing_pictures(found)
    ]
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--committed", action="store_true", help="no new pictures of tissue")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what is compiled there")
    options = parser.parse_args()
    mpl.use("Agg")
    if not options.committed:
        from report.gallery import refresh

        for data in DATA:
            for card in refresh(data):
                print(f"drawn: {card.parent.relative_to(ROOT)}")
    for path in [*pages.update(), *build(keep=options.keep)]:
        print(f"written: {path.relative_to(ROOT)}")
    missing = what_is_missing()
    if missing:
        print('Not measured, and "not run" in the documents:')
        print("\n".join(f"  {line}" for line in missing))


if __name__ == "__main__":
    main()
