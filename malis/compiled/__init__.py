"""The counts of `malis.pairs` as compiled loops, on a CPU: an extra, it needs Numba.

counts      pair counts of a batch and maximin edges: where to begin
kruskal     the loops: edges sorted and joined, with counting built in
"""

from malis.compiled.counts import compiled_maximin_edges, compiled_pair_counts

__all__ = ["compiled_maximin_edges", "compiled_pair_counts"]
