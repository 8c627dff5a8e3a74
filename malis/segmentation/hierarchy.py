"""The hierarchy of merges, of which every segmentation is a cut."""

from dataclasses import dataclass

import numpy as np
import torch

from malis._checks import Array
from malis.segmentation.numbering import in_kind, joined
from malis.segmentation.regions import RegionSums, absorb_small


@dataclass(frozen=True)
class Hierarchy:
    """Merges of N fragments in the order in which agglomeration made them.

    Attributes
    ----------
    leaves : (*spatial) int32 array
        Fragment of every voxel, 1 ... N; 0 = no fragment.
    n_fragments : int
        N.
    merges : (M, 2) int64 array
        The two regions of each merge. Regions 0 ... N-1 are the fragments (label - 1); merge i
        makes region N + i.
    scores : (M,) float32 array
        Affinity of each merge, never increasing.
    device : torch.device or None
        Where cuts go: to tensors on this device, or to arrays.
    graph : RegionSums or None
        The fragments and the affinities between them, for `absorb`.
    """

    leaves: np.ndarray
    n_fragments: int
    merges: np.ndarray
    scores: np.ndarray
    device: torch.device | None = None
    graph: RegionSums | None = None

    def n_merges(self, threshold: float) -> int:
        """Count the merges with a score of at least the threshold."""
        return int(np.searchsorted(-self.scores, -np.float32(threshold), side="right"))

    def regions(self, threshold: float, absorb: int = 0) -> np.ndarray:
        """Find the region of every fragment after merging down to a threshold.

        Return (N,) int64 numbers 1, 2, ... in the order of their first fragments. For `absorb` see
        `cut`.
        """
        done = self.merges[: self.n_merges(threshold)]
        n_nodes = self.n_fragments + len(done)
        made = np.repeat(np.arange(self.n_fragments, n_nodes), 2)
        region = joined(n_nodes, done.ravel(), made)
        region = region[: self.n_fragments].astype(np.int64) + 1
        if not absorb:
            return region
        if self.graph is None:
            raise ValueError("without its graph, a hierarchy cannot absorb small regions")
        sizes = np.bincount(self.leaves.ravel(), minlength=self.n_fragments + 1)[1:]
        return absorb_small(self.graph, region, sizes, absorb)

    def cut(self, threshold: float, absorb: int = 0) -> Array:
        """Merge while the score is at least a threshold.

        Parameters
        ----------
        threshold : float
            An affinity. The lower, the fewer and larger the regions.
        absorb : int
            Regions of fewer voxels then join the neighbour to which their mean affinity is highest.

        Returns
        -------
        (*spatial) uint64 array or int64 tensor
            Regions 1, 2, ...; 0 where there is no fragment.

        Raises
        ------
        ValueError
            If absorb is negative, or the hierarchy has no graph to absorb by.
        """
        labels = in_kind(np.append(0, self.regions(threshold, absorb)), self.device)
        if isinstance(labels, torch.Tensor):
            return labels[torch.from_numpy(self.leaves).to(labels.device)]
        return labels[self.leaves]
