"""Figures of what MALIS gains: section by section in a cross-validation, and by reading."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from malis import plotting
from report.canvas import WIDTH, add_legend, grid
from report.configurations import FOLD_METHODS, FOLDS
from report.folds import fold_table, load_folds, section_scores
from report.readings import READINGS, gains
from report.record import RESULTS


def draw_folds(results: Path = RESULTS) -> plt.Figure | None:
    """Draw the score of every section by one loss over that by the other, a panel a reading.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while no fold has both.
    """
    tables = [table for data in FOLDS if (table := fold_table(data, results))]
    if not tables:
        return None
    panels = [(table, row) for table in tables for row in table["rows"]]
    figure, axes = grid([row["name"] for _, row in panels], height=1.75, columns=4)
    baseline, method = FOLD_METHODS
    for ax, (table, row) in zip(axes, panels, strict=False):
        found, reach = load_folds(table["key"], results), 0.0
        for fold in sorted(set(found[baseline]) & set(found[method])):
            theirs, ours = (section_scores(found[m][fold], row["key"]) for m in FOLD_METHODS)
            colour = plotting.PALETTE[fold % len(plotting.PALETTE)]
            ax.plot(list(theirs.values()), list(ours.values()), "o", color=colour, ms=3.5)
            reach = max(reach, *theirs.values(), *ours.values())
        ax.plot([0, 1.05 * reach], [0, 1.05 * reach], color="0.6", linewidth=1, zorder=0)
        ax.set(xlim=(0, 1.05 * reach), ylim=(0, 1.05 * reach), aspect="equal")
        ax.set_title(row["name"].replace(", ", ",\n"), fontsize=8)
        ax.set_xlabel("cross-entropy")
        ax.locator_params(nbins=4)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("both losses")
    figure.tight_layout(w_pad=0.5)
    return figure


def draw_readings(results: Path = RESULTS) -> plt.Figure | None:
    """Draw what both losses gain over cross-entropy in every reading, with standard errors.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while no volume has two pairs of runs.
    """
    rows = gains(results)
    if not rows:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.3), sharey=True)
    for ax, all_views in zip(axes, (False, True), strict=True):
        for number, row in enumerate(rows):
            cells = [cell for cell in row["cells"] if cell["all_views"] == all_views]
            places = np.arange(len(cells)) + 0.14 * (number - (len(rows) - 1) / 2)
            colour, marker = plotting.PALETTE[number], "os^Dv"[number % 5]
            ax.errorbar(
                places, [cell["mean"] for cell in cells], [cell["error"] for cell in cells],
                fmt=marker, ms=4.5, capsize=2.5, color=colour,
                label=f"{row['title']}, {row['pairs']} {row['unit']}",
            )  # fmt: skip
        names = ["\n".join(name.rsplit(" ", 1)) for name in READINGS.values()]
        ax.set_xticks(range(len(names)), names, fontsize=7.5)
        ax.axhline(0, color="0.5", linewidth=1, zorder=0)
        ax.set_title("mean over all views" if all_views else "one view", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("gain in CREMI score")
    figure.tight_layout()
    add_legend(figure, axes[0])
    return figure
