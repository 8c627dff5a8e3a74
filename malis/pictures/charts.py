"""Charts: curves over training, split against merge, scores, contingency tables."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from malis.pictures.colours import DASHES, PALETTE


def plot_histories(
    ax: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str
) -> None:
    """Plot curves over training steps.

    Parameters
    ----------
    curves : mapping from name to (steps, values)
    label : str
        Of the vertical axis.
    """
    for number, (name, (steps, values)) in enumerate(curves.items()):
        style = {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number % len(DASHES)]}
        ax.plot(steps, values, label=name, **style)
    ax.set_axis_on()
    ax.set_xlabel("step")
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)


def plot_split_merge(
    ax: Axes,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    chosen: Mapping[str, int] | None = None,
) -> None:
    """Plot VOI merge over VOI split, one point a threshold; the lower left corner is perfect.

    Parameters
    ----------
    curves : mapping from name to (VOI split, VOI merge)
        In bits.
    chosen : mapping from name to int, optional
        The point of each curve that was chosen, marked by a disc.
    """
    for number, (name, (split, merge)) in enumerate(curves.items()):
        style = {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number % len(DASHES)]}
        ax.plot(split, merge, label=name, **style)
        if chosen and name in chosen:
            point = split[chosen[name]], merge[chosen[name]]
            ax.plot(*point, marker="o", color=style["color"], markeredgecolor="black")
    ax.set_axis_on()
    ax.set_xlabel("VOI split (bits)")
    ax.set_ylabel("VOI merge (bits)")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)


def plot_scores(ax: Axes, scores: Mapping[str, Sequence[float]], label: str) -> None:
    """Plot a row of points per method, one point a run, and a bar at their mean.

    Parameters
    ----------
    scores : mapping from name to values
        Drawn from top to bottom; a row without values stays empty.
    label : str
        Of the horizontal axis.
    """
    for row, values in enumerate(scores.values()):
        colour = PALETTE[row % len(PALETTE)]
        if len(values):
            ax.plot([np.mean(values)] * 2, [row - 0.32, row + 0.32], color=colour, linewidth=2)
        ax.plot(values, [row] * len(values), "o", ms=4, color=colour, markeredgecolor="black")
    ax.set_axis_on()
    ax.set_yticks(range(len(scores)), list(scores))
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.set_xlim(
        0, 1.12 * max((max(values) for values in scores.values() if len(values)), default=1)
    )
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(label)
    ax.grid(axis="y", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def show_contingency(
    ax: Axes, table: np.ndarray, rows: Sequence[object], columns: Sequence[object]
) -> None:
    """Show a contingency table with its counts.

    Parameters
    ----------
    table : (n, m) integer array
    rows, columns : sequences
        Ids of the n objects of the truth and the m segments.
    """
    ax.imshow(np.sqrt(table), cmap="Blues")
    for (row, column), count in np.ndenumerate(table):
        if count:
            dark = count > table.max() / 4
            colour = "white" if dark else "black"
            ax.text(column, row, str(count), ha="center", va="center", color=colour)
    ax.set_axis_on()
    ax.set_xticks(range(len(columns)), [str(name) for name in columns])
    ax.set_yticks(range(len(rows)), [str(name) for name in rows])
    ax.set_xlabel("segment")
    ax.set_ylabel("object of the truth")
