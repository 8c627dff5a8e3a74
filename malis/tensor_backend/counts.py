r"""Pair counts without a walk over the edges: the same numbers, where the tensors are.

Kruskal's algorithm takes one edge after the other, which a GPU cannot speed up. The counts need not
be found that way. Everything here is a sort, a scatter, a gather or a prefix sum over whole tensors
and runs on the device of the affinities; the loops go over the rounds of Borůvka's algorithm, of
which there are at most log2(n) + 1. Integers and a total order of the edges make the result
bitwise equal to that of `malis.pairs`, on every device and in every run. A batch is one graph, its
samples are pieces that no edge joins.

The chapters, in the order in which the counts come about:

1. `malis.tensor_backend.boruvka` finds the edges of the maximum spanning forest, everywhere at
   once;
2. `malis.tensor_backend.merges` finds in which order and which sizes Kruskal would have merged
   them, worked through on six voxels in a row;
3. this one puts the labels in.

**Constrained counts.** Borůvka on the inner edges alone gives the positive pass: both sides of a
merge carry one label, so all |A| |B| pairs are positive. What it leaves are regions of one label,
or single voxels of background. Borůvka on those, with all other edges, gives the negative pass;
each region weighs as much as it has voxels of an object. Of the |A| |B| pairs there, those of one
label do not count.

**Pairs of one label**, for any number of labels. Lay the regions on the leaf line, and sort them by
label. Two neighbours of one label, in that order, meet at their weakest link; and if A and B
have the label in common, then exactly one pair of neighbours has one of them in A and the other in
B. So the neighbours of all labels are the edges of paths, ordered like their weakest links, and
Kruskal's merges on these paths count the pairs of one label: steps 1 and 2 once more.

For the six voxels of `malis.tensor_backend.merges` with labels a1 b2 c1 d1 e0 f2, in a single
pass::

    line              e0 d1 f2 c1 b2 a1
    label 1           d --(3)-- c --(4)-- a       edge 3: 1 * 1,  edge 4: 2 * 1
    label 2           f --(3)-- b                 edge 3: 1 * 1
    all pairs         edge 0: 1,  1: 0,  2: 1,  3: 2 * 2,  4: 1 * 4
    of one label              0      0      0      2           2
    of two labels             1      0      1      2           2

References
----------
Borůvka 1926; King, Algorithmica 18, 1997 (weakest links); Funke et al., IEEE TPAMI 41(7), 2019.
"""

import numpy as np
import torch
from torch import Tensor

from malis._checks import Checked
from malis.tensor_backend.boruvka import (
    FINISHED,
    BoruvkaForest,
    Grid,
    edge_codes,
    edge_numbers,
    grid_forest,
    list_forest,
)
from malis.tensor_backend.merges import (
    Merges,
    kruskal_merges,
    pair_products,
    vertex_line,
    weakest_links,
)
from malis.tensor_backend.tensors import as_tensors


def parallel_pair_counts(
    checked: Checked, offsets: np.ndarray, constrained: bool = True
) -> tuple[Tensor, Tensor]:
    """Count the voxel pairs that every edge decides: `malis.pair_counts` as tensor operations.

    The int64 counts stay on the device of the affinities. O(E log n) work in the worst case, some
    3 E in practice, for n voxels and E edges; below 100 bytes of memory per edge with constraints,
    below 150 without or with masks. One CPU thread takes 0.6 s for 128^3 voxels, where two calls of
    ``hg.bpt_canonical`` take 2.7 s (``report/results/benchmark_parallel_cpu.json``). No GPU has
    timed it so far; ``python -m benchmarks.parallel_loss --device cuda`` is ready to.

    Raises
    ------
    ValueError
        For 2^29 voxels or 2^31 edges in a batch, or more.
    """
    tensors = as_tensors(checked)
    shape = tensors.values.shape
    if len(shape) == offsets.shape[1] + 1:
        tensors = Checked(*(None if tensor is None else tensor[None] for tensor in tensors))
    values, labels, known, labelled = tensors
    grid = _batch_grid(values, offsets)
    known = None if known is None else known.transpose(0, 1)
    if labelled is not None:
        labels = _mark_unlabelled(labels, ~labelled)
        unlabelled = grid.edges_where(lambda one, other: ~(labelled[one] | labelled[other]))
        known = ~unlabelled if known is None else known & ~unlabelled
    if not constrained:
        counts = _unconstrained_counts(grid, labels, known)
    elif known is None:
        counts = _constrained_counts(grid, labels)
    else:
        counts = _masked_counts(grid, labels, known)
    positive, negative = (
        count.view(grid.codes.shape).transpose(0, 1).contiguous().view(shape) for count in counts
    )
    return positive, negative


def parallel_maximin_edges(values: Tensor, offsets: np.ndarray, pairs: Tensor) -> Tensor:
    """Find the maximin edge of voxel pairs in a batch: `malis.maximin_edges` on any device.

    Parameters
    ----------
    values : (B, C, *spatial) float32 tensor
    offsets : (C, ndim) int64 array
    pairs : (P, 2) int64 tensor
        Two different voxels each, as flat C-order indices into (B, *spatial).

    Returns
    -------
    (P, 2 + ndim) int64 tensor
        Sample, channel and voxel of each pair's maximin edge; rows of -1 where no path joins it.
    """
    grid = _batch_grid(values, offsets)
    forest = grid_forest(grid, grid.edges_where(lambda *_: True))
    keys = weakest_links(forest, forest.key, *pairs.unbind(1))
    separate = keys == FINISHED
    numbers = edge_numbers(keys.masked_fill_(separate, 0))
    coordinates = []
    for size in reversed(grid.codes.shape):  # C, B, *spatial
        coordinates.append(numbers % size)
        numbers = numbers // size
    channel, sample, *voxel = reversed(coordinates)
    return torch.stack([sample, channel, *voxel], dim=1).masked_fill_(separate[:, None], -1)


def _batch_grid(values: Tensor, offsets: np.ndarray) -> Grid:
    """Make one grid of a (B, C, *spatial) batch: B is an axis along which no offset steps."""
    return Grid(values.transpose(0, 1), np.pad(offsets, ((0, 0), (1, 0))))


def _mark_unlabelled(labels: Tensor, unlabelled: Tensor) -> Tensor:
    """Renumber the labels 1, 2, ...; -1 becomes the label of all unlabelled voxels."""
    numbers = torch.unique(labels, return_inverse=True)[1] + 1
    return numbers.masked_fill_(labels == 0, 0).masked_fill_(unlabelled, -1)


def _constrained_counts(grid: Grid, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both passes: the inner edges, then the others between the regions that they leave."""
    inner = grid.inner_edges(labels)
    forest = grid_forest(grid, inner)
    merges = kruskal_merges(forest)
    pairs = pair_products(forest, merges, torch.ones_like(forest.component))
    positive = _spread(grid, merges.numbers, pairs)
    del merges, pairs  # they are as large as the forest of the other pass may be
    late = grid.edges_where(lambda *_: True).logical_and_(~inner)
    return positive, _boundary_counts(grid, forest, late, labels)


def _masked_counts(grid: Grid, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Two passes, both with all unknown edges at their predicted affinities."""
    exists = grid.edges_where(lambda *_: True)
    inner = grid.inner_edges(labels)
    counted = known & inner

    # Edges known to be boundaries come last, when no other count changes any more.
    positive, _ = _label_counts(grid, exists & (inner | ~known), labels)
    forest = grid_forest(grid, counted)
    negative = _boundary_counts(grid, forest, exists & ~counted, labels)
    return (
        positive.masked_fill_(~counted.flatten(), 0),
        negative.masked_fill_(~known.flatten(), 0),
    )


def _unconstrained_counts(
    grid: Grid, labels: Tensor, known: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Count all pairs in the forest of the affinities as they are."""
    positive, negative = _label_counts(grid, grid.edges_where(lambda *_: True), labels)
    if known is not None:
        for counts in (positive, negative):
            counts.masked_fill_(~known.flatten(), 0)
    return positive, negative


def _label_counts(grid: Grid, taken: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of one label and of two, for every edge of a grid graph of some edges."""
    forest = grid_forest(grid, taken)
    merges = kruskal_merges(forest)
    labels = labels.flatten()
    same, different = _label_pairs(forest, merges, labels, (labels != 0).to(torch.int32))
    return _spread(grid, merges.numbers, same), _spread(grid, merges.numbers, different)


def _boundary_counts(grid: Grid, inner: BoruvkaForest, late: Tensor, labels: Tensor) -> Tensor:
    """Pairs of two labels, for the edges that come after the forest of the inner ones."""
    last = inner.key == FINISHED
    numbering = last.cumsum(0, dtype=torch.int32) - 1
    n_regions = int(numbering[-1]) + 1
    region = numbering.index_select(0, inner.component)  # of every voxel

    sources, targets, keys = grid.list_edges(late)
    sources, targets = (region.index_select(0, end) for end in (sources, targets))
    apart = (sources != targets).nonzero().squeeze(1)
    sources, targets, keys = (x.index_select(0, apart) for x in (sources, targets, keys))
    forest = list_forest(n_regions, sources, targets, edge_codes(keys))
    merges = kruskal_merges(forest)

    region, labels = region.to(torch.int64), labels.flatten()
    weights = torch.zeros(n_regions, dtype=torch.int32, device=labels.device)
    weights.scatter_add_(0, region, (labels != 0).to(torch.int32))
    region_labels = labels.new_zeros(n_regions).scatter_(0, region, labels)  # all of them alike
    _, different = _label_pairs(forest, merges, region_labels, weights)
    return _spread(grid, edge_numbers(keys).index_select(0, merges.numbers), different)


def _label_pairs(
    forest: BoruvkaForest, merges: Merges, labels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Count the pairs of one label and of two that meet at every merge: (M,) int64.

    Every vertex has an int64 label and an int32 number of voxels; those of label 0 weigh nothing.
    """
    pairs = pair_products(forest, merges, weights)
    line = vertex_line(forest, merges)
    line = line.index_select(0, labels.index_select(0, line).nonzero().squeeze(1))
    own, by_label = labels.index_select(0, line).sort(stable=True)
    line = line.index_select(0, by_label)

    links = (own[1:] == own[:-1]).nonzero().squeeze(1)
    ends = (line.index_select(0, links), line.index_select(0, links + 1))
    meeting = weakest_links(forest, merges.pick_ranks, *ends)
    joined = (meeting < len(merges)).nonzero().squeeze(1)
    if len(joined) == 0:
        return torch.zeros_like(pairs), pairs
    links = links.index_select(0, joined).to(torch.int32)
    meeting = meeting.index_select(0, joined)

    paths = list_forest(len(line), links, links + 1, meeting)
    path_merges = kruskal_merges(paths)
    products = pair_products(paths, path_merges, weights.index_select(0, line))
    deciding = meeting.index_select(0, path_merges.numbers).to(torch.int64)
    same = torch.zeros_like(pairs).scatter_add_(0, deciding, products)  # in Kruskal's order
    same = same.index_select(0, merges.ranks)
    return same, pairs - same


def _spread(grid: Grid, numbers: Tensor, counts: Tensor) -> Tensor:
    """Write counts to their edges; all other edges have 0."""
    dense = torch.zeros(grid.codes.numel(), dtype=torch.int64, device=counts.device)
    return dense.scatter_(0, numbers, counts)
