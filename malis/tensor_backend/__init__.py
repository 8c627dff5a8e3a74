"""The counts of `malis.pairs` as tensor operations, where the tensors are.

counts      pair counts and maximin edges of a batch: where to begin
boruvka     the maximum spanning forest, grown everywhere at once
merges      in which order, and of which sizes, Kruskal would have merged
components  connected components of a batch of labels
sampling    random voxel pairs of a batch
tensors     what has passed the gate, as tensors
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
