"""Figures of what MALIS gains: by section, by reading, and by the length of the training."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from malis import pictures
from report.canvas import WIDTH, add_legend, grid
from report.configurations import DATA, ablations_of
from report.folds import fold_tables, held_out_scores, length_tables, load_folds
from report.readings import READINGS, gains
from report.record import RESULTS
from report.runs import MAIN, VIEWS

SHOWN = (MAIN, "threshold_watershed")
HOLLOW = "hollow: labels as they are (ISBI 2012: MALIS halfway)"


def _is_first(row: dict[str, Any]) -> bool:
    """Return whether a table or row is of the first pair of methods of its volume."""
    return row["labels"] == ablations_of(row["key"])[0].title


def draw_folds(results: Path = RESULTS) -> plt.Figure | None:
    """Draw every score by both losses over that by cross-entropy, a panel a volume and reading.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while no fold has both.
    """
    tables = fold_tables(results)
    if not tables:
        return None
    volumes = list(dict.fromkeys(table["key"] for table in tables))
    panels = [(volume, number) for volume in volumes for number in range(len(SHOWN))]
    columns = len(panels) if len(panels) <= 6 else 4
    figure, axes = grid([volume for volume, _ in panels], height=1.5, columns=columns)
    for ax, (volume, number) in zip(axes, panels, strict=False):
        reach = 0.0
        for table in (one for one in tables if one["key"] == volume):
            (row,) = (row for row in table["rows"] if row["key"] == SHOWN[number])
            baseline, method = (load_folds(volume, results)[m] for m in table["methods"])
            hollow = {} if _is_first(table) else {"mfc": "white"}
            for fold in sorted(set(baseline) & set(method)):
                theirs, ours = (
                    list(held_out_scores(run[fold], row["key"]).values())
                    for run in (baseline, method)
                )
                colour = pictures.PALETTE[fold % len(pictures.PALETTE)]
                ax.plot(theirs, ours, "o", color=colour, ms=3, **hollow)
                reach = max(reach, *theirs, *ours)
        ax.plot([0, 1.05 * reach], [0, 1.05 * reach], color="0.6", linewidth=1, zorder=0)
        ax.set(xlim=(0, 1.05 * reach), ylim=(0, 1.05 * reach), aspect="equal")
        ax.set_title(f"{table['title']},\n{row['name']}", fontsize=8 if columns <= 4 else 6.5)
        ax.locator_params(nbins=3)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("cross-entropy", fontsize=8)
    for ax in axes[::columns]:
        ax.set_ylabel("with MALIS")
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
    volumes = list(dict.fromkeys(row["key"] for row in rows))
    solid = [row for row in rows if len(DATA[row["key"]].patch) == 3]  # larger differences
    groups = [group for group in ([row for row in rows if row not in solid], solid) if group]
    figure, axes = plt.subplots(
        len(groups), 2, figsize=(WIDTH, 0.7 + 1.6 * len(groups)), sharex=True, sharey="row",
        squeeze=False,
    )  # fmt: skip
    panels = [
        (ax, group, all_views)
        for line, group in zip(axes, groups, strict=True)
        for ax, all_views in zip(line, (False, True), strict=True)
    ]
    for ax, group, all_views in panels:
        for row in group:
            cells = [cell for cell in row["cells"] if cell["all_views"] == all_views]
            number, first = volumes.index(row["key"]), _is_first(row)
            kinds = [cell["key"].removeprefix(VIEWS) for cell in cells]
            places = np.array([list(READINGS).index(kind) for kind in kinds], float)
            places += 0.16 * (number - (len(volumes) - 1) / 2)
            colour, marker = pictures.PALETTE[number], "os^Dv"[number % 5]
            ax.errorbar(
                places if first else places + 0.06,
                [cell["mean"] for cell in cells], [cell["error"] for cell in cells],
                fmt=marker, ms=4.5, capsize=2 if first else 0, color=colour,
                elinewidth=1.2 if first else 0.6, mfc=colour if first else "white",
                label=f"{row['title']}, {row['pairs']} {row['unit']}" if first else None,
            )  # fmt: skip
        if group is groups[-1] and not all(map(_is_first, rows)):
            ax.errorbar([], [], fmt="o", ms=4.5, color="0.3", mfc="white", label=HOLLOW)
        names = ["\n".join(name.rsplit(" ", 1)) for name in READINGS.values()]
        ax.set_xticks(range(len(names)), names, fontsize=7.5)
        ax.axhline(0, color="0.5", linewidth=1, zorder=0)
        if group is groups[0]:
            ax.set_title("mean over all views" if all_views else "one view", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    for line in axes:
        line[0].set_ylabel("gain in CREMI score", fontsize=8)
    figure.tight_layout()
    add_legend(figure, *axes[:, 0])
    return figure


def draw_lengths(results: Path = RESULTS) -> plt.Figure | None:
    """Draw what MALIS gains over the number of steps of the trainings, a panel a volume.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while nothing was cross-validated with several lengths.
    """
    tables = length_tables(results)
    if not tables:
        return None
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table in tables:
        groups.setdefault((table["title"], table["labels"]), []).append(table)
    figure, axes = grid([title for title, _ in groups], height=1.9, columns=2)
    for ax, ((title, labels), group) in zip(axes, groups.items(), strict=False):
        steps = np.array([table["steps"] for table in group], float)
        for number, rows in enumerate(zip(*(table["rows"] for table in group), strict=True)):
            views = rows[0]["key"].startswith(VIEWS)
            ax.errorbar(
                steps * 1.03 ** (number - 1.5),  # beside each other, for their bars
                [-row["difference"] for row in rows], [row["error"] for row in rows],
                fmt="s-" if "threshold" in rows[0]["key"] else "o-", ms=4, capsize=2, linewidth=1,
                color=pictures.PALETTE[number], mfc="white" if views else None,
                label=rows[0]["name"],
            )  # fmt: skip
        ax.axhline(0, color="0.5", linewidth=1, zorder=0)
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xticks(steps, [f"{table['steps']:,}" for table in group])
        ax.set_xlabel("steps of the trainings", fontsize=8)
        ax.set_title(f"{title}, {labels}", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[::2]:
        ax.set_ylabel("gain in CREMI score", fontsize=8)
    figure.tight_layout()
    add_legend(figure, axes[0])
    return figure
