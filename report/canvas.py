"""What all figures of the documents share: sizes, fonts, grids of panels, reproducible vectors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

WIDTH = 6.3  # inches: the width of the report's text
VECTOR = {
    "svg.fonttype": "path",  # letters as outlines: no font is needed to show them
    "svg.hashsalt": "malis",  # the same drawing, the same file
    "font.size": 8,
    "axes.titlesize": 9,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
}


def save_vector(draw: Callable[..., plt.Figure | None], path: Path, *arguments: Path) -> bool:
    """Draw a figure and write it as SVG, the same bytes every time.

    Parameters
    ----------
    draw : callable
        Returns the figure, or None where there is nothing to draw.
    path : Path
    *arguments
        Of `draw`.

    Returns
    -------
    bool
        Whether there is a figure.
    """
    with mpl.rc_context(VECTOR):
        figure = draw(*arguments)
        if figure is not None:
            figure.savefig(path, dpi=200, metadata={"Date": None, "Creator": None})
            plt.close(figure)
    return figure is not None


def grid(
    names: list[str], height: float, columns: int = 3, **options: Any
) -> tuple[plt.Figure, list[plt.Axes]]:
    """Make a panel a name, in rows of equal panels; what is left over stays empty."""
    columns = min(columns, max(len(names), 1))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * height + 0.3), squeeze=False, **options
    )
    axes = list(panels.ravel())
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure, axes


def add_legend(figure: plt.Figure, *axes: plt.Axes) -> None:
    """Write one legend below all panels, with what some of them hold."""
    entries = [entry for ax in axes for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles, names = zip(*entries, strict=True)
    style = {"frameon": False, "ncols": 3, "loc": "upper center", "fontsize": 8}
    figure.legend(handles, names, bbox_to_anchor=(0.5, 0.02), **style)
