"""Sections: tissue, objects, borders, affinities, and where a loss pulls at them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import ndimage

from malis.pictures.colours import DASHES, FOUND, PALETTE, TRUTH, colour_labels


def panels(
    titles: Sequence[str], columns: int | None = None, size: float = 3.0
) -> tuple[Figure, list[Axes]]:
    """Make one framed axes per title, without ticks, in rows.

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
    for ax in axes[len(titles) :]:
        ax.set_axis_off()
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=11)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.6")
    figure.tight_layout()
    return figure, axes[: len(titles)]


def show_raw(ax: Axes, raw: np.ndarray) -> None:
    """Show a section of the microscope.

    Parameters
    ----------
    raw : (y, x) array
        uint8, or anything with its own black and white.
    """
    limits = {"vmin": 0, "vmax": 255} if raw.dtype == np.uint8 else {}
    ax.imshow(raw, cmap="gray", interpolation="nearest", **limits)


def add_scale_bar(ax: Axes, nm_per_pixel: float, length: float | None = None) -> None:
    """Draw a scale bar into the lower left corner of a picture of tissue.

    Parameters
    ----------
    ax : Axes
        With a picture in it.
    nm_per_pixel : float
        Width of a pixel.
    length : float, optional
        Of the bar, in nm; by default a round number near a quarter of the picture.
    """
    height, width = ax.images[0].get_array().shape[:2]
    if length is None:
        quarter = width * nm_per_pixel / 4
        power = 10.0 ** np.floor(np.log10(quarter))
        length = max(step * power for step in (1, 2, 5) if step * power <= quarter)
    start, end, y = 0.04 * width, 0.04 * width + length / nm_per_pixel, 0.95 * height
    outline = [withStroke(linewidth=3.5, foreground="black")]
    ax.plot([start, end], [y, y], color="white", linewidth=2.5, solid_capstyle="butt",
            path_effects=[withStroke(linewidth=4.5, foreground="black")])  # fmt: skip
    text = f"{length:.4g} nm" if length < 1000 else f"{length / 1000:.4g} µm"
    ax.text((start + end) / 2, y - 0.015 * height, text, color="white", ha="center", va="bottom",
            fontsize=9, path_effects=outline)  # fmt: skip
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)


def add_colour_bar(ax: Axes, label: str) -> None:
    """Say beside a picture which values its colours stand for.

    Parameters
    ----------
    ax : Axes
        With a picture in it; the last one is described.
    label : str
    """
    bar = ax.figure.colorbar(ax.images[-1], ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def show_labels(
    ax: Axes, labels: np.ndarray, raw: np.ndarray | None = None, opacity: float = 0.5
) -> None:
    """Show objects in their colours, over the tissue if it is given.

    Parameters
    ----------
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
    borders[1:] |= labels[1:] != labels[:-1]
    borders[:, 1:] |= labels[:, 1:] != labels[:, :-1]
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

    The lines run just inside the objects, so that those of two neighbours lie side by side.

    Parameters
    ----------
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
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        ax.contour(depth, levels=[0.9], colors=[colour], linewidths=1.5, linestyles=[dash])
        deepest = np.unravel_index(depth.argmax(), depth.shape)
        ax.text(*deepest[::-1], name, color="white", ha="center", va="center", fontsize=8).set_bbox(
            {"facecolor": "black", "alpha": 0.6, "pad": 1, "edgecolor": "none"}
        )


def show_affinity(ax: Axes, affinity: np.ndarray) -> None:
    """Show one channel of affinities, black 0 to white 1.

    Parameters
    ----------
    affinity : (y, x) array
        In [0, 1].
    """
    ax.imshow(affinity, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def show_pull(
    ax: Axes,
    raw: np.ndarray,
    gradient: np.ndarray,
    size: float = 120,
    legend: bool = False,
    smallest: float = 0,
) -> None:
    """Show where and how a loss pulls at the affinities: one mark per edge, its area the strength.

    Parameters
    ----------
    raw : (y, x) array
    gradient : (C, y, x) array
        Of the loss by the affinities. Where it is negative, a step against it raises the affinity
        (blue, upright triangles); where it is positive, it lowers it (orange, inverted triangles).
    size : float
        Area of the strongest mark, in points squared.
    legend : bool
        Whether to say in the picture what the marks mean.
    smallest : float
        Area of the weakest marks, which otherwise may be too small to see.
    """
    show_raw(ax, raw)
    strongest = np.abs(gradient).max() or 1.0
    for marker, colour, pull, wish in (
        ("^", PALETTE[0], -gradient, "raise this affinity"),
        ("v", PALETTE[1], gradient, "lower this affinity"),
    ):
        channel, y, x = np.nonzero(pull > strongest * 1e-4)
        area = np.maximum(size * pull[channel, y, x] / strongest, smallest)
        rim = np.minimum(0.5, np.sqrt(area) / 20)  # thin around small marks: they keep their colour
        ax.scatter(x, y, area, color=colour, marker=marker, edgecolors="white", linewidths=rim)
        if legend:
            ax.scatter([], [], 60, color=colour, marker=marker, edgecolors="white", label=wish)
    if legend:
        ax.legend(loc="upper right", fontsize=8, framealpha=0.9)
    ax.set_xlim(-0.5, raw.shape[1] - 0.5)
    ax.set_ylim(raw.shape[0] - 0.5, -0.5)
