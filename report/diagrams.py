"""Figures that explain the method: the examples of `report.examples`, drawn.

Those of the tensor form (``figures/rounds.svg``, ``leaf_line.svg``) were drawn once.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from malis import pictures
from malis.affinity import gather_edges
from report.examples import GRID_NAMES, OFFSETS, grid_example, weak_pixel_example


def draw_weak_pixel() -> plt.Figure:
    """Draw two cells, a prediction with one hole, and its segments."""
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
    """Draw the nine voxels: prediction, tree of merges, plain and constrained pair counts."""
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
            ax.invert_yaxis()  # the leaves are on top
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
    """Draw the one tree of both passes: merges in their order, inner ones above the line."""
    example = grid_example()
    tree = example.one_tree
    affinities = gather_edges(example.affinities, np.array(OFFSETS))[tree.edges]
    n_inner = example.numbers["inner_merges"]
    heights = 0.92 - 0.1 * np.arange(len(tree.edges))  # in the order of the merges
    heights[n_inner:] -= 0.12
    figure, ax = plt.subplots(figsize=(6.3, 2.9))
    pictures.draw_merge_tree(ax, tree, heights, GRID_NAMES)
    for text, affinity in zip(ax.texts[: len(affinities)], affinities, strict=True):
        text.set_text(f"{affinity:.2g}")
    border = (heights[n_inner - 1] + heights[n_inner]) / 2 - 0.02
    ax.axhline(border, color=pictures.PALETTE[4], linestyle="--", linewidth=1)
    style = {"transform": ax.get_yaxis_transform(), "fontsize": 8, "color": pictures.PALETTE[4]}
    ax.text(1.01, border + 0.03, "positive pass:\ninner edges", va="bottom", **style)
    ax.text(1.01, border - 0.03, "negative pass:\nboundary edges", va="top", **style)
    ax.set_ylim(heights[-1] - 0.09, 1.12)  # the leaves are on top
    ax.set_yticks([])
    ax.set_ylabel("order of merges")
    figure.tight_layout()
    return figure
