"""Maximin affinity learning of image segmentation (MALIS).

``malis.MalisLoss`` is the constrained all-pairs loss of Funke et al. (2019), ``malis.MaximinLoss``
the sampled one of Turaga et al. (2009). They are built from ``malis.pair_counts`` and
``malis.maximin_edges``. ``malis.segment`` turns predicted affinities into labels.
"""

from typing import Any

from malis.affinity import affinities_from_labels, existing_edges, nearest_offsets
from malis.composite import GrowBoundaryLoss, SumLoss, WindowLoss
from malis.labels import grow_boundary
from malis.loss import AffinityCrossEntropy, MalisLoss, MaximinLoss, malis_weights
from malis.maximin import maximin_edges
from malis.pairs import pair_counts, rand_error

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


def __getattr__(name: str) -> Any:
    """Load `segment` on first use: the losses do not need what it imports."""
    if name == "segment":
        from malis.segmentation import segment

        return segment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
