"""The region graph: which fragments touch, and all affinities on the boundary between them."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from malis._checks import Array, Offsets
from malis.segmentation.grid import as_affinities, direct_edges
from malis.segmentation.numbering import compact, joined


@dataclass(frozen=True)
class RegionGraph:
    """Regions, the pairs of them that touch, and the affinities between each pair.

    Attributes
    ----------
    n_regions : int
        N; regions are numbered 0 ... N-1.
    edges : (E, 2) int64 array
        The two regions of each pair, the smaller number first; pairs in ascending order.
    affinities : (A,) float32 array
        Affinities of the voxel edges on the boundaries, pair by pair.
    starts : (E + 1,) int64 array
        Pair e owns ``affinities[starts[e] : starts[e + 1]]``, at least one.
    """

    n_regions: int
    edges: np.ndarray
    affinities: np.ndarray
    starts: np.ndarray

    @property
    def contact(self) -> np.ndarray:
        """Number of voxel edges between each pair, (E,) int64."""
        return np.diff(self.starts)

    @property
    def total(self) -> np.ndarray:
        """Sum of the affinities between each pair, (E,) float64."""
        if len(self.edges) == 0:
            return np.zeros(0)
        return np.add.reduceat(self.affinities, self.starts[:-1], dtype=np.float64)

    @property
    def mean(self) -> np.ndarray:
        """Mean affinity between each pair, (E,) float64."""
        return self.total / self.contact

    @property
    def maximum(self) -> np.ndarray:
        """Largest affinity between each pair, (E,) float32."""
        if len(self.edges) == 0:
            return np.zeros(0, dtype=np.float32)
        return np.maximum.reduceat(self.affinities, self.starts[:-1])

    def sums(self) -> "RegionSums":
        """Forget the single affinities."""
        return RegionSums(self.n_regions, self.edges, self.contact, self.total, self.maximum)


@dataclass(frozen=True)
class RegionSums:
    """What is left of a region graph when the single affinities are too many to be kept.

    Sums over parts of a volume add up to those of the whole; means and quantiles would not. All
    names mean what they mean in a `RegionGraph`.
    """

    n_regions: int
    edges: np.ndarray
    contact: np.ndarray
    total: np.ndarray
    maximum: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean affinity between each pair, (E,) float64."""
        return self.total / self.contact


def region_graph(affinities: Array, offsets: Offsets, fragments: Array) -> RegionGraph:
    """Find the pairs of fragments that touch, and gather the affinities between them.

    Parameters
    ----------
    affinities : (C, *spatial) float array or tensor
        Affinities in [0, 1]; channel c joins voxel v and v + offsets[c].
    offsets : (C, ndim) integers
        Channels that are no unit steps are not used.
    fragments : (*spatial) integer array or tensor
        Labels; 0 = no fragment. Fragment with the i-th smallest label becomes region i, from 0.

    Returns
    -------
    RegionGraph

    Raises
    ------
    ValueError, TypeError
        See `agglomerate`.
    """
    return number_and_graph(affinities, offsets, fragments)[1]


def number_and_graph(
    affinities: Array, offsets: Offsets, fragments: Array
) -> tuple[np.ndarray, RegionGraph]:
    """Check affinities and fragments; return the fragments as int32 1 ... N, and their graph."""
    values, offsets = as_affinities(affinities, offsets)
    if tuple(fragments.shape) != values.shape[1:]:
        raise ValueError(
            f"fragments must have shape {values.shape[1:]} like the affinities, "
            f"got {tuple(fragments.shape)}"
        )
    numbers, ids = compact(fragments, "fragments")
    return numbers, graph_of_regions(values, offsets, numbers, len(ids))


def graph_of_regions(
    values: np.ndarray, offsets: np.ndarray, numbers: np.ndarray, n_regions: int
) -> RegionGraph:
    """Build the graph of (*spatial) int32 fragments 1 ... N, 0 for none; all is checked."""
    pairs, affinities = [], []
    flat, strides = numbers.ravel(), np.cumprod([1, *numbers.shape[:0:-1]])[::-1]
    for channel, near, far in direct_edges(numbers.shape, offsets):
        between = np.zeros(numbers.shape, dtype=bool)
        np.not_equal(numbers[near], numbers[far], out=between[near])
        voxels = np.flatnonzero(between)
        ends = np.stack([flat[voxels], flat[voxels + offsets[channel] @ strides]])
        pair = np.stack([ends.min(axis=0), ends.max(axis=0)])
        weights = values[channel].ravel()[voxels]
        if not pair[0].all():
            weights, pair = weights[pair[0] > 0], pair[:, pair[0] > 0]
        pairs.append(pair - 1)
        affinities.append(weights)
    return group_by_pair(n_regions, np.concatenate(pairs, axis=1), np.concatenate(affinities))


def group_by_pair(n_regions: int, pairs: np.ndarray, affinities: np.ndarray) -> RegionGraph:
    """Sort boundary affinities by their pair of regions.

    `pairs` are (2, A) integers, the two regions of each of A affinities, the smaller number first.
    As a sparse matrix with an entry for each affinity, because SciPy sorts those by counting: by
    column, then by row. The affinities of a pair keep their order.
    """
    table = sparse.coo_array((affinities, tuple(pairs)), (n_regions, n_regions))
    table.has_canonical_format = True  # entries of one pair must not be added up
    rows = table.tocsc().tocsr()
    first_of_pair = np.diff(rows.indices, prepend=-1) != 0
    first_of_pair[rows.indptr[:-1][np.diff(rows.indptr) > 0]] = True
    starts = np.flatnonzero(first_of_pair)
    low = np.searchsorted(rows.indptr, starts, side="right") - 1
    edges = np.stack([low, rows.indices[starts]], axis=1).astype(np.int64)
    return RegionGraph(n_regions, edges, rows.data, np.append(starts, len(affinities)))


def join_graphs(
    n_regions: int, parts: list[RegionGraph] | list[RegionSums]
) -> RegionGraph | RegionSums:
    """Put graphs together of which no two hold the same pair, named by the regions of the whole."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *(part.edges for part in parts)])
    order = np.lexsort(edges.T[::-1])
    edges = edges[order]
    if isinstance(parts[0], RegionSums):
        columns = [
            np.concatenate([getattr(part, name) for part in parts])[order]
            for name in ("contact", "total", "maximum")
        ]
        return RegionSums(n_regions, edges, *columns)
    affinities = np.concatenate([part.affinities for part in parts])
    contact = np.concatenate([part.contact for part in parts])
    first = (np.cumsum(contact) - contact)[order]
    starts = np.append(0, np.cumsum(contact[order]))
    place = np.arange(len(affinities)) + np.repeat(first - starts[:-1], contact[order])
    return RegionGraph(n_regions, edges, affinities[place], starts)


def check_absorb(size: int) -> None:
    """Raise a ValueError if a number of voxels is negative."""
    if size < 0:
        raise ValueError(f"absorb must be a number of voxels, got {size}")


def absorb_small(
    graph: RegionSums, regions: np.ndarray, sizes: np.ndarray, size: int
) -> np.ndarray:
    """Let every region of fewer than `size` voxels join its neighbour of the highest mean affinity.

    In each round every small region joins one neighbour, however low the affinity, so that no two
    large ones are joined. Rounds end when no small region has a neighbour. Zlateski and Seung,
    arXiv:1505.00249, 2015, treat small regions on their own, too.

    `regions`, (N,) int64 numbers 1, 2, ..., says in which region each fragment of the graph lies,
    and `sizes`, (N,), how many voxels it has. Returned are numbers like `regions`.
    """
    check_absorb(size)
    while True:
        n = int(regions.max(initial=0)) + 1
        small = np.bincount(regions, weights=sizes, minlength=n) < size
        ends = np.sort(regions[graph.edges], axis=1)
        taken = (ends[:, 0] != ends[:, 1]) & small[ends].any(axis=1)
        if not taken.any():
            return regions
        keys, pair = np.unique(ends[taken] @ [n, 1], return_inverse=True)
        contact, total = (np.bincount(pair, one[taken]) for one in (graph.contact, graph.total))
        one, other = np.divmod(keys, n)
        one, other = np.concatenate([one, other]), np.concatenate([other, one])
        order = np.lexsort((other, -np.tile(total / contact, 2), one))
        order = order[small[one[order]]]
        best = order[np.diff(one[order], prepend=-1) != 0]
        regions = joined(n, one[best], other[best])[regions].astype(np.int64)
