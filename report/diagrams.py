"""Figures that explain the method: the examples of `report.examples`, drawn."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

from malis import pictures
from malis.affinity import gather_edges
from report.examples import (
    CHAIN,
    CHAIN_LABELS,
    CHAIN_NAMES,
    GRID_NAMES,
    OFFSETS,
    grid_example,
    rounds_example,
    weak_pixel_example,
)


def draw_weak_pixel() -> plt.Figure:
    """Draw two cells, a prediction with one hole, and its segments.

    Returns
    -------
    Figure
    """
    example = weak_pixel_example()
    titles = ["(a) two cells", "(b) prediction with one hole", "(c) its segments"]
    figure, axes = pictures.panels(titles, size=2.1)
    for ax in axes:
        ax.title.set_fontsize(8)
    pictures.show_labels(axes[0], example.truth)
    axes[1].imshow(example.inside, cmap="gray", interpolation="nearest")
    pictures.show_labels(axes[2], example.segments)
    for ax in axes:
        height, width = example.truth.shape
        ax.add_patch(plt.Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="0.3"))
    figure.set_size_inches(6.3, 1.75)
    return figure


PANELS = ("affinities", "tree of merges", "pairs decided, one tree", "pairs decided, constrained")


def draw_grid(shown: Sequence[str] = PANELS) -> plt.Figure:
    """Draw the nine voxels: prediction, tree of merges, plain and constrained pair counts.

    Parameters
    ----------
    shown : sequence of str
        Some of `PANELS`.

    Returns
    -------
    Figure
    """
    example = grid_example()
    several = len(shown) > 1
    titles = [f"({'abcd'[i]}) {name}" if several else "" for i, name in enumerate(shown)]
    figure, axes = pictures.panels(titles, columns=min(2, len(shown)), size=2.9)
    style = {"labels": example.labels, "names": GRID_NAMES}
    counts = dict(zip(PANELS[2:], (example.plain, example.constrained), strict=True))
    for ax, name in zip(axes, shown, strict=True):
        ax.title.set_fontsize(9)
        if name == PANELS[0]:
            pictures.draw_grid_graph(
                ax, example.affinities, OFFSETS, emphasised=[example.detour], **style
            )
        elif name == PANELS[1]:
            heights = gather_edges(example.affinities, np.array(OFFSETS))[example.tree.edges]
            pictures.draw_merge_tree(ax, example.tree, heights, GRID_NAMES)
        else:
            positive, negative = counts[name]
            texts = {
                edge: f"+{positive[edge]} −{negative[edge]}"
                for edge in np.ndindex(positive.shape)
                if positive[edge] or negative[edge]
            }
            both = [edge for edge in texts if positive[edge] and negative[edge]]
            pictures.draw_grid_graph(
                ax, example.affinities, OFFSETS, texts=texts, emphasised=both, **style
            )
    figure.tight_layout()
    return figure


def draw_one_tree() -> plt.Figure:
    """Draw the one tree of both passes: merges in their order, inner ones above the line.

    Returns
    -------
    Figure
    """
    example = grid_example()
    tree = example.one_tree
    affinities = gather_edges(example.affinities, np.array(OFFSETS))[tree.edges]
    n_inner = example.numbers["inner_merges"]
    heights = 0.92 - 0.1 * np.arange(len(tree.edges))  # in the order of the merges
    heights[n_inner:] -= 0.12
    figure, ax = plt.subplots(figsize=(6.3, 2.9))
    pictures.draw_merge_tree(ax, tree, heights, GRID_NAMES)
    for text, affinity in zip(ax.texts, affinities, strict=True):
        text.set_text(f"{affinity:.2g}")
    border = (heights[n_inner - 1] + heights[n_inner]) / 2 - 0.02
    ax.axhline(border, color=pictures.PALETTE[4], linestyle="--", linewidth=1)
    style = {"transform": ax.get_yaxis_transform(), "fontsize": 8, "color": pictures.PALETTE[4]}
    ax.text(1.01, border + 0.03, "positive pass:\ninner edges", va="bottom", **style)
    ax.text(1.01, border - 0.03, "negative pass:\nboundary edges", va="top", **style)
    ax.set_ylim(heights[-1] - 0.09, 1.02)
    ax.set_yticks([])
    ax.set_ylabel("order of merges")
    figure.tight_layout()
    return figure


def draw_rounds() -> plt.Figure:
    """Draw six voxels in a row and the supervertices that Borůvka's rounds melt them into.

    Returns
    -------
    Figure
    """
    example = rounds_example()
    figure, ax = plt.subplots(figsize=(6.3, 1.8))
    ax.set_axis_off()
    voxels = {name: [place] for place, name in enumerate(CHAIN_NAMES)}
    for vertex in example["rounds"]:
        if vertex["members"]:
            voxels[vertex["name"]] = [v for m in vertex["members"] for v in voxels[m]]
    depth = dict.fromkeys(CHAIN_NAMES, 0)
    for vertex in example["rounds"]:
        if not vertex["members"]:
            continue
        name, places = vertex["name"], voxels[vertex["name"]]
        depth[name] = level = 1 + max(depth[member] for member in vertex["members"])
        pad = 0.1 + 0.26 * level
        box = (min(places) - pad, -pad), max(places) - min(places) + 2 * pad, 2 * pad
        ax.add_patch(
            FancyBboxPatch(
                *box, boxstyle="round,pad=0,rounding_size=0.15", facecolor="none",
                edgecolor=pictures.PALETTE[level - 1], linestyle=pictures.DASHES[level - 1],
            )
        )  # fmt: skip
        picks = vertex["picks"]
        text = f"{name}: picks {picks}" if picks is not None else f"{name}: finished"
        ax.text(np.mean(places), pad - 0.04, text, ha="center", va="top", fontsize=8)
    ranks = {edge["ends"]: edge["rank"] for edge in example["edges"]}
    for place, affinity in enumerate(CHAIN):
        ax.plot([place, place + 1], [0, 0], color="0.45", linewidth=0.5 + 6 * affinity, zorder=1)
        ends = f"{CHAIN_NAMES[place]}–{CHAIN_NAMES[place + 1]}"
        ax.text(place + 0.5, 0.05, f"{affinity:.1f}", ha="center", va="bottom", fontsize=8)
        ax.text(place + 0.5, -0.06, f"({ranks[ends]})", ha="center", va="top", fontsize=8)
    ax.scatter(range(6), [0] * 6, 260, color="white", edgecolors="black", zorder=3)
    for place, name in enumerate(CHAIN_NAMES):
        ax.text(place, 0, name, ha="center", va="center", zorder=4, fontsize=9)
    ax.set_xlim(-0.8, 5.8)
    ax.set_ylim(-0.68, 0.68)
    return figure


def draw_leaf_line() -> plt.Figure:
    """Draw six voxels in the order of the leaf line, with the links between those of one label.

    Returns
    -------
    Figure
    """
    example = rounds_example()
    line = example["line"]
    labels = dict(zip(CHAIN_NAMES, CHAIN_LABELS, strict=True))
    figure, ax = plt.subplots(figsize=(6.3, 1.7))
    ax.set_axis_off()
    colours = pictures.colour_labels(np.array([[labels[name] for name in line]]))[0]
    colours[[labels[name] == 0 for name in line]] = 0.85
    ax.scatter(range(6), [0] * 6, 420, c=colours, edgecolors="black", marker="s", zorder=3)
    for place, name in enumerate(line):
        ax.text(place, 0, name, ha="center", va="center", zorder=4, fontsize=9)
        text = f"label {labels[name]}" if labels[name] else "background"
        ax.text(place, -0.42, text, ha="center", va="top", fontsize=8)
    for link in example["links"]:
        ends = sorted(line.index(name) for name in link["ends"])
        height = 0.38 * (ends[1] - ends[0])
        number = (link["label"] - 1) % len(pictures.PALETTE)
        angle = np.linspace(0, np.pi, 60)
        ax.plot(
            np.mean(ends) - (ends[1] - ends[0]) / 2 * np.cos(angle),
            0.28 + height * np.sin(angle),
            color=pictures.PALETTE[number], linestyle=pictures.DASHES[number],
        )  # fmt: skip
        ax.text(
            np.mean(ends), 0.28 + height, f"{link['affinity']:.1f}", ha="center", va="center",
            fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    ax.set_xlim(-0.6, 5.6)
    ax.set_ylim(-0.8, 1.75)
    return figure
