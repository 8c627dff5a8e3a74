"""The counts of `malis.pairs` as tensor operations, where the tensors are.

counts      pair counts and maximin edges of a batch: where to begin
boruvka     the maximum spanning forest, grown everywhere at once
merges      in which order, and of which sizes, Kruskal would have merged
components  connected components of a batch of labels
sampling    random voxel pairs of a batch
tensors     what has passed the gate, as tensors

**What the host reads.** No tensor is copied to the host, only single numbers: whether the input is
in range, how many edges are left, whether a search has ended. A GPU has to come to the end of its
work for each of them. `malis.MalisLoss` waits for 68 of them with a batch of 4 x 128^2 voxels, for
88 with 64^3, for 91 with 128^3; `malis.MaximinLoss` for 49 with 4 x 128^2 and 57 with 64^3;
`malis.AffinityCrossEntropy` for 3, of logits for 2. `malis.WindowLoss` and `malis.GrowBoundaryLoss`
add some 20, for connected components. Apple's MPS has no float64 and lacks other things: there, the
network may run on the device, and the pairs are counted on the host.
"""

from malis.tensor_backend.components import parallel_components
from malis.tensor_backend.counts import parallel_maximin_edges, parallel_pair_counts
from malis.tensor_backend.sampling import sample_batch
from malis.tensor_backend.tensors import as_tensor, as_tensors

__all__ = [
    "as_tensor",
    "as_tensors",
    "parallel_components",
    "parallel_maximin_edges",
    "parallel_pair_counts",
    "sample_batch",
]
