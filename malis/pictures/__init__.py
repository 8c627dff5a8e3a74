"""Pictures: every figure that the notebooks, the README and the report share.

A function draws into the axes it is given and returns nothing; `panels` makes the axes. Objects
keep their colour from figure to figure, because it is a function of their id alone. Where colours
would hide the tissue, objects are drawn as borders. Kinds are told apart by lightness and dash as
well as by hue, so that prints in grey and colour-blind readers lose nothing.
"""

from malis._extras import extra_package

extra_package("matplotlib", "notebooks")  # told before the imports below fail

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_rgba
from matplotlib.figure import Figure
from scipy import ndimage

from malis._checks import Offsets, check_offsets
from malis.affinity import edge_slices
from malis.maximin import MaximinTree

GOLDEN_RATIO = 0.618033988749895
# Of Okabe and Ito, told apart by the colour-blind, but grey for their yellow.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#D55E00", "#56B4E9", "#000000", "#999999"),
)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)))
TRUTH, FOUND = "#56B4E9", "#E69F00"


def panels(
    titles: Sequence[str], columns: int | None = None, size: float = 3.0
) -> tuple[Figure, list[Axes]]:
    """Make one axes per title, without ticks, in rows.

    Parameters
    ----------
    titles : sequence of str
    columns : int, optional
        Axes per row; all in one row by default.
    size : float
        Width and height of each, in inches.

    Returns
    -------
    figure, axes : Figure, list of Axes
    """
    columns = columns or len(titles)
    rows = -(-len(titles) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(size * columns, (size + 0.25) * rows), squeeze=False
    )
    axes = list(grid.ravel())
    for ax in axes:
        ax.set_axis_off()
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure, axes[: len(titles)]


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Give every object its colour, background black.

    Parameters
    ----------
    labels : (y, x) integer array
        Object ids, 0 = background.

    Returns
    -------
    (y, x, 3) float array
        In [0, 1].
    """
    ids, where = np.unique(labels, return_inverse=True)
    hue = (ids.astype(np.float64) % 2**20 * GOLDEN_RATIO) % 1
    lightness = np.array([1.0, 0.8, 0.9])[(ids % 3).astype(int)]
    saturation = np.array([0.45, 0.65])[(ids % 2).astype(int)]
    colours = hsv_to_rgb(np.stack([hue, saturation, lightness], axis=-1))
    colours[ids == 0] = 0
    return colours[where.reshape(labels.shape)]


def show_raw(ax: Axes, raw: np.ndarray) -> None:
    """Show a section of the microscope.

    Parameters
    ----------
    ax : Axes
    raw : (y, x) array
        uint8, or anything with its own black and white.
    """
    limits = {"vmin": 0, "vmax": 255} if raw.dtype == np.uint8 else {}
    ax.imshow(raw, cmap="gray", interpolation="nearest", **limits)


def show_labels(
    ax: Axes, labels: np.ndarray, raw: np.ndarray | None = None, opacity: float = 0.5
) -> None:
    """Show objects in their colours, over the tissue if it is given.

    Parameters
    ----------
    ax : Axes
    labels : (y, x) integer array
    raw : (y, x) array, optional
    opacity : float
        Of the colours over the tissue.
    """
    colours = colour_labels(labels)
    if raw is not None:
        show_raw(ax, raw)
        alpha = np.where(labels == 0, 0, opacity)
        colours = np.dstack([colours, alpha])
    ax.imshow(colours, interpolation="nearest")


def find_borders(labels: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Mark the pixels of an object that touch another object or background.

    Parameters
    ----------
    labels : (y, x) integer array
    thickness : int
        Of the line, in pixels.

    Returns
    -------
    (y, x) bool array
    """
    borders = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        after = [slice(None)] * 2
        after[axis] = slice(1, None)
        borders[tuple(after)] |= differs
    return ndimage.binary_dilation(borders, iterations=thickness - 1) if thickness > 1 else borders


def show_borders(
    ax: Axes,
    raw: np.ndarray,
    labels: np.ndarray,
    colour: str = FOUND,
    thickness: int = 2,
) -> None:
    """Show the borders of objects on the tissue.

    Parameters
    ----------
    ax : Axes
    raw : (y, x) array
    labels : (y, x) integer array
    colour : str
    thickness : int
        Of the line, in pixels.
    """
    show_raw(ax, raw)
    overlay = np.zeros((*labels.shape, 4))
    overlay[find_borders(labels, thickness)] = to_rgba(colour)
    ax.imshow(overlay, interpolation="nearest")


def show_disagreement(
    ax: Axes, raw: np.ndarray, truth: np.ndarray, labels: np.ndarray, tolerance: float = 4
) -> None:
    """Show which borders of one segmentation have no border of another nearby.

    Parameters
    ----------
    ax : Axes
    raw : (y, x) array
    truth : (y, x) integer array
        Its borders that are missing in `labels`, where objects are merged, are blue.
    labels : (y, x) integer array
        Its borders that are not in the truth, where objects are split, are orange.
    tolerance : float
        Borders at most as far apart agree, in pixels. Choose it larger than half the thickness of
        membranes that are labelled as background: they have two borders.
    """
    show_raw(ax, raw)
    overlay = np.zeros((*truth.shape, 4))
    lines = find_borders(truth), find_borders(labels)
    for own, other, colour in zip(lines, reversed(lines), (TRUTH, FOUND), strict=True):
        alone = own.copy()
        if other.any():
            alone &= ndimage.distance_transform_edt(~other) > tolerance
        overlay[ndimage.binary_dilation(alone)] = to_rgba(colour)
    ax.imshow(overlay, interpolation="nearest")


def outline_objects(
    ax: Axes,
    raw: np.ndarray,
    labels: np.ndarray,
    ids: Sequence[int],
    names: Sequence[str] | None = None,
) -> None:
    """Outline some objects on the tissue, each with a line and colour of its own.

    Parameters
    ----------
    ax : Axes
    raw : (y, x) array
    labels : (y, x) integer array
    ids : sequence of int
        The objects to outline.
    names : sequence of str, optional
        What stands at each; its id by default.
    """
    show_raw(ax, raw)
    for number, (object_id, name) in enumerate(zip(ids, names or map(str, ids), strict=True)):
        inside = labels == object_id
        if not inside.any():
            continue
        colour = PALETTE[number % len(PALETTE)]
        dash = DASHES[number % len(DASHES)]
        ax.contour(inside, levels=[0.5], colors=[colour], linewidths=1.5, linestyles=[dash])
        deepest = np.unravel_index(ndimage.distance_transform_edt(inside).argmax(), inside.shape)
        ax.text(*deepest[::-1], name, color="white", ha="center", va="center", fontsize=8).set_bbox(
            {"facecolor": "black", "alpha": 0.6, "pad": 1, "edgecolor": "none"}
        )


def show_affinity(ax: Axes, affinity: np.ndarray) -> None:
    """Show one channel of affinities, black 0 to white 1.

    Parameters
    ----------
    ax : Axes
    affinity : (y, x) array
        In [0, 1].
    """
    ax.imshow(affinity, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def show_pull(ax: Axes, raw: np.ndarray, gradient: np.ndarray, size: float = 120) -> None:
    """Show where and how a loss pulls at the affinities: one mark per edge, its area the strength.

    Parameters
    ----------
    ax : Axes
    raw : (y, x) array
    gradient : (C, y, x) array
        Of the loss by the affinities. Where it is negative, a step against it raises the affinity
        (blue, upright triangles); where it is positive, it lowers it (orange, inverted triangles).
    size : float
        Area of the strongest mark, in points squared.
    """
    show_raw(ax, raw)
    strongest = np.abs(gradient).max() or 1.0
    for marker, colour, pull in (("^", PALETTE[0], -gradient), ("v", PALETTE[1], gradient)):
        channel, y, x = np.nonzero(pull > strongest * 1e-4)
        area = size * pull[channel, y, x] / strongest
        ax.scatter(x, y, area, color=colour, marker=marker, edgecolors="white", linewidths=0.3)
    ax.set_xlim(-0.5, raw.shape[1] - 0.5)
    ax.set_ylim(raw.shape[0] - 0.5, -0.5)


def draw_grid_graph(
    ax: Axes,
    affinities: np.ndarray,
    offsets: Offsets,
    *,
    labels: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    texts: Mapping[tuple[int, int, int], str] | None = None,
    emphasised: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Draw a small section as a graph: pixels as discs, edges as lines as thick as their affinity.

    Parameters
    ----------
    ax : Axes
    affinities : (C, y, x) array
        In [0, 1].
    offsets : (C, 2) integers
    labels : (y, x) integer array, optional
        Colours the discs.
    names : sequence of str, optional
        Written into the discs, in C order.
    texts : mapping from (channel, y, x) to str, optional
        Written at the edges; their affinities by default.
    emphasised : sequence of (channel, y, x)
        Edges drawn in the second colour and dashed.
    """
    height, width = affinities.shape[1:]
    wanted = {tuple(map(int, edge)) for edge in emphasised}
    for channel, offset in enumerate(check_offsets(offsets)):
        source = edge_slices((height, width), offset)[0]
        rows, columns = (axis.ravel() for axis in np.mgrid[source])
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            affinity = float(affinities[channel, y, x])
            edge = (channel, y, x)
            colour, dash = (PALETTE[4], (0, (2, 0.6))) if edge in wanted else ("0.45", "-")
            ends = np.array([(x, y), (x + offset[1], y + offset[0])])
            ax.plot(*ends.T, color=colour, linestyle=dash, linewidth=0.5 + 7 * affinity, zorder=1)
            text = f"{affinity:.2g}" if texts is None else texts.get(edge, "")
            if text:
                ax.text(
                    *ends.mean(0), text, ha="center", va="center", fontsize=9, zorder=3
                ).set_bbox({"facecolor": "white", "pad": 1, "edgecolor": "none"})
    y, x = np.mgrid[:height, :width]
    colours = "white" if labels is None else colour_labels(labels).reshape(-1, 3)
    ax.scatter(x, y, 500, c=colours, edgecolors="black", zorder=4)
    for place, name in enumerate(names or ()):
        ax.text(place % width, place // width, name, ha="center", va="center", zorder=5)
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_aspect("equal")


def draw_merge_tree(
    ax: Axes, tree: MaximinTree, altitudes: np.ndarray, names: Sequence[str] | None = None
) -> None:
    """Draw the tree of merges: leaves in a row, every merge at the height of its affinity.

    Parameters
    ----------
    ax : Axes
    tree : MaximinTree
        Of a small, connected graph.
    altitudes : (N-1,) array
        Affinity of the edge that made each merge.
    names : sequence of str, optional
        Of the leaves.
    """
    n_leaves = tree.n_voxels
    children = [np.flatnonzero(tree.parents[:-1] == node) for node in range(len(tree.parents))]
    order, stack = [], [len(tree.parents) - 1]
    while stack:
        node = stack.pop()
        order += [node] if node < n_leaves else []
        stack += children[node][::-1].tolist()
    x = np.zeros(len(tree.parents))
    x[order] = np.arange(n_leaves)
    top = np.concatenate([np.ones(n_leaves), altitudes])
    for node in range(n_leaves, len(tree.parents)):
        first, second = children[node]
        x[node] = (x[first] + x[second]) / 2
        ends = [x[first], x[first], x[second], x[second]]
        ax.plot(ends, [top[first], top[node], top[node], top[second]], color=PALETTE[0])
        value = ax.text(x[node], top[node], f"{top[node]:.2g}", ha="center", va="center")
        value.set(fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    labels = [str(leaf) if names is None else names[leaf] for leaf in order]
    ax.set_xticks(range(n_leaves), labels)
    ax.set_ylabel("affinity of the merge")
    ax.set_ylim(min(altitudes) - 0.1, 1.02)
    ax.set_axis_on()
    ax.spines[["top", "right"]].set_visible(False)


def plot_histories(
    ax: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str
) -> None:
    """Plot curves over training steps.

    Parameters
    ----------
    ax : Axes
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
    ax : Axes
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
    ax : Axes
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
    ax : Axes
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
