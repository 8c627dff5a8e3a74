"""From a volume to affinities: tile by tile, from all views, with neighbouring sections.

tiles         `predict`: a volume through the network, without seams
views         the mean over mirrored and transposed volumes
neighbours    the sections beside a section, as further channels
grey_values   what the microscope wrote → numbers for a network
own_unet      the package `unet` that came with `malis`, whatever else goes by that name
"""

from malis.inference.grey_values import normalise
from malis.inference.neighbours import (
    as_sections,
    as_slabs,
    neighbours_of,
    stack_neighbours,
)
from malis.inference.tiles import plan_tiles, predict
from malis.inference.views import predict_views

__all__ = [
    "as_sections",
    "as_slabs",
    "neighbours_of",
    "normalise",
    "plan_tiles",
    "predict",
    "predict_views",
    "stack_neighbours",
]
