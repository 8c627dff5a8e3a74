"""Affinities to labels, and the threshold between them.

The usual way is `fragments`, then `agglomerate`, then a cut of the hierarchy at a threshold that
`choose_cut` chose on validation data. `segment` does it in one call.

    grid, numbering     what all steps share: edges of neighbours, numbered labels
    watershed           a seeded watershed from the maximum spanning forest
    oversegmentation    fragments: average, threshold, distance, seeds, watershed
    regions             the region graph with all affinities between two fragments; small regions
    agglomeration       the order of merges, by the mean or the maximum
    quantile            or a quantile of the affinities on a boundary
    hierarchy           the merges; every segmentation is a cut
    recipe              affinities to a hierarchy, the same way for everybody
    threshold           what validation data choose: scores of all cuts, the best one
    sections            2D segmentations linked to 3D
    baselines           connected components; threshold and watershed
    pipeline            one call
    traps               small examples of what goes wrong
"""

from malis.segmentation.agglomeration import agglomerate, merge_regions
from malis.segmentation.baselines import connected_components, threshold_watershed
from malis.segmentation.grid import average_affinities
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.numbering import remove_small
from malis.segmentation.oversegmentation import (
    FragmentSteps,
    fragment_steps,
    fragments,
    inside_candidates,
    inside_threshold,
)
from malis.segmentation.pipeline import segment
from malis.segmentation.recipe import fragments_of, hierarchies_of, hierarchy_of, parts_of
from malis.segmentation.regions import RegionGraph, region_graph
from malis.segmentation.sections import link_sections
from malis.segmentation.threshold import Choice, ThresholdCurve, best_threshold, choose_cut
from malis.segmentation.traps import (
    SameTree,
    WeakPixel,
    same_tree_different_channels,
    weak_pixel_leak,
)
from malis.segmentation.watershed import seeded_watershed

__all__ = [
    "Choice",
    "FragmentSteps",
    "Hierarchy",
    "RegionGraph",
    "SameTree",
    "ThresholdCurve",
    "WeakPixel",
    "agglomerate",
    "average_affinities",
    "best_threshold",
    "choose_cut",
    "connected_components",
    "fragment_steps",
    "fragments",
    "fragments_of",
    "hierarchies_of",
    "hierarchy_of",
    "inside_candidates",
    "inside_threshold",
    "link_sections",
    "merge_regions",
    "parts_of",
    "region_graph",
    "remove_small",
    "same_tree_different_channels",
    "seeded_watershed",
    "segment",
    "threshold_watershed",
    "weak_pixel_leak",
]
