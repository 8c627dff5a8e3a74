"""Pictures: every figure that the notebooks, the README and the report share.

A function draws into the axes it is given and returns nothing; `panels` makes the axes.

    images     sections: tissue, objects, borders, affinities, gradients; scale bars
    graphs     grid graphs and trees of a few pixels
    charts     curves, scores, tables
    colours    who has which colour
    surfaces   objects in 3D
"""

from malis._checks import extra_package

extra_package("matplotlib", "notebooks")  # told before the imports below fail

from malis.pictures.charts import (
    plot_histories,
    plot_scores,
    plot_split_merge,
    show_contingency,
)
from malis.pictures.colours import DASHES, FOUND, PALETTE, TRUTH, colour_labels, match_labels
from malis.pictures.graphs import draw_grid_graph, draw_merge_tree
from malis.pictures.images import (
    add_colour_bar,
    add_scale_bar,
    find_borders,
    outline_objects,
    panels,
    show_affinity,
    show_borders,
    show_disagreement,
    show_labels,
    show_pull,
    show_raw,
)

__all__ = [
    "DASHES",
    "FOUND",
    "PALETTE",
    "TRUTH",
    "add_colour_bar",
    "add_scale_bar",
    "colour_labels",
    "draw_grid_graph",
    "draw_merge_tree",
    "find_borders",
    "match_labels",
    "outline_objects",
    "panels",
    "plot_histories",
    "plot_scores",
    "plot_split_merge",
    "show_affinity",
    "show_borders",
    "show_contingency",
    "show_disagreement",
    "show_labels",
    "show_pull",
    "show_raw",
]
