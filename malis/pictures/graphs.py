"""Small graphs: pixels as discs, edges as lines, merges as a tree."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from malis._checks import Offsets, check_offsets
from malis.affinity import edge_slices
from malis.maximin import MaximinTree
from malis.pictures.colours import PALETTE, colour_labels


def draw_grid_graph(
    ax: Axes,
    affinities: np.ndarray,
    offsets: Offsets,
    *,
    labels: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    texts: Mapping[tuple[int, int, int], str] | None = None,
    emphasised: Sequence[tuple[int, int, int]] = (),
    kept: Sequence[tuple[int, int, int]] | None = None,
) -> None:
    """Draw a small section as a graph: pixels as discs, edges as lines as thick as their affinity.

    Parameters
    ----------
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
        Edges drawn in another colour and dashed.
    kept : sequence of (channel, y, x), optional
        Edges drawn in blue, for instance those of a spanning tree; all others then are pale.
    """
    height, width = affinities.shape[1:]
    wanted = {tuple(map(int, edge)) for edge in emphasised}
    chosen = None if kept is None else {tuple(map(int, edge)) for edge in kept}
    for channel, offset in enumerate(check_offsets(offsets)):
        source = edge_slices((height, width), offset)[0]
        rows, columns = (axis.ravel() for axis in np.mgrid[source])
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            affinity = float(affinities[channel, y, x])
            edge = (channel, y, x)
            colour, dash = ("0.45", "-") if chosen is None else ("0.85", "-")
            if edge in wanted:
                colour, dash = PALETTE[4], (0, (2, 0.6))
            elif chosen is not None and edge in chosen:
                colour = PALETTE[0]
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
    ax: Axes,
    tree: MaximinTree,
    altitudes: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    labels: np.ndarray | None = None,
    n_merges: int | None = None,
) -> None:
    """Draw the tree of merges: leaves in a row, every merge as high as its affinity is low.

    Parameters
    ----------
    tree : MaximinTree
        Of a small, connected graph.
    altitudes : (N-1,) array
        Affinity of the edge that made each merge.
    names : sequence of str, optional
        Of the leaves.
    labels : integer array of N voxels, optional
        Colours the leaves.
    n_merges : int, optional
        Draw only the first merges.
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
    row = 1.07  # of the leaves: below the lowest possible merge, so that no disc hides a bracket
    height = np.concatenate([np.full(n_leaves, row), altitudes])
    for node in range(n_leaves, len(tree.parents)):
        first, second = children[node]
        x[node] = (x[first] + x[second]) / 2
        if n_merges is not None and node >= n_leaves + n_merges:
            continue
        ends = [x[first], x[first], x[second], x[second]]
        ax.plot(ends, [height[first], height[node], height[node], height[second]], color=PALETTE[0])
        ax.annotate(
            f"{height[node]:.2g}", (x[node], height[node]), (2, 1.5),
            textcoords="offset points", ha="left", va="bottom", fontsize=8,
        )  # fmt: skip
    colours = "white" if labels is None else colour_labels(labels).reshape(-1, 3)[order]
    ax.scatter(
        range(n_leaves), np.full(n_leaves, row), 220, c=colours, edgecolors="black", zorder=4
    )
    for place, leaf in enumerate(order):
        name = str(leaf) if names is None else names[leaf]
        ax.text(place, row, name, ha="center", va="center", zorder=5, fontsize=9)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks(np.arange(0, 1.01, 0.2))
    ax.set_ylabel("affinity of the merge")
    ax.set_xlim(-0.6, n_leaves - 0.4)
    ax.set_ylim(row + 0.08, min(altitudes) - 0.12)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
