"""Maximin affinity learning of image segmentation (MALIS).

``malis.MalisLoss`` is the constrained all-pairs loss of Funke et al. (2019), ``malis.MaximinLoss``
the sampled one of Turaga et al. (2009); ``malis.pair_counts`` and ``malis.maximin_edges`` are what
they are built from. ``malis.segment`` turns predicted affinities into labels.
"""

from malis.affinity import affinities_from_labels, existing_edges, nearest_offsets
from malis.boundary import GrowBoundaryLoss, grow_boundary
from malis.edge_loss import AffinityCrossEntropy
from malis.loss import MalisLoss, MaximinLoss, SumLoss, malis_weights
from malis.maximin import maximin_edges
from malis.pairs import pair_counts, rand_error
from malis.segmentation import segment
from malis.windows import WindowLoss

__all__ = [
    "AffinityCrossEntropy",
    "GrowBoundaryLoss",
    "MalisLoss",
    "MaximinLoss",
    "SumLoss",
    "WindowLoss",
    "affinities_from_labels",
    "existing_edges",
    "grow_boundary",
    "malis_weights",
    "maximin_edges",
    "nearest_offsets",
    "pair_counts",
    "rand_error",
    "segment",
]
