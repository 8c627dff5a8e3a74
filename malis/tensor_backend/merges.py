r"""Kruskal's merges out of Borůvka's rounds: sizes, leaf line and weakest links.

Kruskal's algorithm takes the edges of the forest from strong to weak, one by one; its regions are
what pairs are counted on. Borůvka's rounds find the same edges all at once. What they leave open is
how large the two regions are that an edge joins.

**Cores.** When Kruskal takes the edge that supervertex x has picked, all weaker edges of x's inside
still wait. The part of x that is already together is its *core*. The edge joins the core of x and
whatever lies at the other end.

**Chains.** An edge e that melts vertices into supervertex c belongs to the core of c if it is
stronger than the edge that c has picked. If it is weaker, the core of c leaves without it; ask c's
parent, and so on: the first ancestor whose pick is weaker than e is the *chain* of e. The edges of
one chain, from strong to weak, grow one core. Its first edge is the mutual one that two cores have
picked; each further edge adds the core of its owner to all that the chain has joined so far. So
cumulative sums along the chains, round after round, give the sizes of both sides of every merge.

Six voxels in a row, with these affinities (in brackets the place in Kruskal's order)::

    a ---.2--- b ---.9--- c ---.5--- d ---.8--- e ---.7--- f
         (4)        (0)        (3)        (1)        (2)

    round 0   a, b, c, d, e, f pick edges 4, 0, 0, 1, 1, 2:  {a, b, c} = g,  {d, e, f} = h
    round 1   g and h pick edge 3, the mutual one:           {g, h} = i
    round 2   i has no edge left: finished

    edge  joins    chain
    0     c to b   g    (g's pick is 3, weaker than 0)
    1     e to d   h
    2     f        h
    3     h to g   i
    4     a        i    (not g: its pick, 3, is stronger than 4)

    chain g   0: 1 + 1                      core of g: 2 voxels, a comes later
    chain h   1: 1 + 1,   2: 2 + 1          core of h: 3
    chain i   3: 3 + 2,   4: 5 + 1          6

    pairs     1 1 2 6 5 for edges 0 ... 4: together 15 = 6 * 5 / 2

**Leaf line.** Going back from the last round to the first, every core gets its place: the first two
cores of a chain side by side, then the others in their order. That lays the voxels on a line where
both sides of any merge are neighbouring intervals; here e d f c b a.

**Weakest links.** The maximin edge of two vertices is the weakest pick among their ancestors, from
the vertices themselves up to where their lines meet (King's theorem). For a and e: a's 4, e's 1,
then 3 for g and h; they meet in i, so it is 4.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from malis.tensor_backend.boruvka import FINISHED, BoruvkaForest, edge_numbers


@dataclass(frozen=True)
class Merges:
    """The M merges of Kruskal's algorithm, chain by chain, from strong to weak along a chain.

    Parameters
    ----------
    numbers : (M,) int64 tensor
        The edge that makes the merge.
    ranks : (M,) int64 tensor
        Place of the merge in Kruskal's order.
    owners : (M,) int32 tensor
        The supervertex that has picked the edge; on a chain's first edge, one of the two.
    mates : (M,) int32 tensor
        The other one on a chain's first edge; on all further edges S, which is no supervertex.
    chains : (M,) int32 tensor
        The supervertex whose core the merge belongs to; ascending.
    starts : (S - n + 1,) int64 tensor
        The first merge of every chain, from that of supervertex n to that of S - 1; at last M.
    bounds : list of int
        The first merge of every round's chains, from round 1 on; at last M.
    pick_ranks : (S,) int32 tensor
        Place of every supervertex's pick in Kruskal's order; M where it is finished.
    """

    numbers: Tensor
    ranks: Tensor
    owners: Tensor
    mates: Tensor
    chains: Tensor
    starts: Tensor
    bounds: list[int]
    pick_ranks: Tensor

    def __len__(self) -> int:
        """Return the number of merges, M."""
        return len(self.numbers)


def kruskal_merges(forest: BoruvkaForest) -> Merges:
    """Put the edges of Borůvka's forest into Kruskal's order, and into chains."""
    parent, far, key = forest.parent, forest.far, forest.key
    none = len(parent)
    own = torch.arange(none, dtype=torch.int32, device=parent.device)
    mutual = far.index_select(0, far) == own  # finished ones too: they are their own far end
    # Every edge has one owner: of two supervertices that have picked it, the higher number.
    owners = (~mutual | (far < own)).nonzero().squeeze(1)
    keys, order = key.index_select(0, owners).sort()
    owners = owners.index_select(0, order)
    mates = far.index_select(0, owners)
    mates = mates.masked_fill_(~mutual.index_select(0, owners), none)

    ranks = torch.arange(len(owners), dtype=torch.int32, device=owners.device)
    pick_ranks = torch.full((none + 1,), len(owners), dtype=torch.int32, device=owners.device)
    pick_ranks.scatter_(0, owners, ranks)
    pick_ranks.scatter_(0, mates.to(torch.int64), ranks)

    # Up to here a merge's rank is its place.
    chains = _first_weaker(parent, pick_ranks, owners, ranks)

    # Chain by chain; the sort is stable, so Kruskal's order stays within a chain.
    chains, ranks = chains.sort(stable=True)
    mates = mates.index_select(0, ranks)
    starts = (mates != none).nonzero().squeeze(1)
    starts = torch.cat([starts, starts.new_full((1,), len(ranks))])
    rounds = torch.tensor(forest.firsts[1:], device=starts.device) - forest.n_vertices
    return Merges(
        numbers=edge_numbers(keys).index_select(0, ranks),
        ranks=ranks,
        owners=owners.to(torch.int32).index_select(0, ranks),
        mates=mates,
        chains=chains,
        starts=starts,
        bounds=[int(start) for start in starts.index_select(0, rounds)],
        pick_ranks=pick_ranks[:none],
    )


def _first_weaker(parent: Tensor, pick_ranks: Tensor, owners: Tensor, ranks: Tensor) -> Tensor:
    """Climb from the owner of every merge to its first ancestor that picks a weaker edge."""
    chains = parent.index_select(0, owners)
    weaker = (pick_ranks.index_select(0, chains) < ranks).nonzero().squeeze(1)
    while len(weaker):
        higher = parent.index_select(0, chains.index_select(0, weaker))
        chains.scatter_(0, weaker, higher)
        again = pick_ranks.index_select(0, higher) < weaker
        weaker = weaker.index_select(0, again.nonzero().squeeze(1))
    return chains


def pair_products(forest: BoruvkaForest, merges: Merges, weights: Tensor) -> Tensor:
    """Multiply the weights of the two regions that every merge joins: (M,) int64.

    `weights` are (n,) int32, those of the vertices, together below 2^31.
    """
    sizes, before = _core_sizes(forest, merges, weights)
    joining = sizes.index_select(0, merges.owners)
    joined = before + sizes.index_select(0, merges.mates)  # one of the two is 0
    return joining.to(torch.int64) * joined


def vertex_line(forest: BoruvkaForest, merges: Merges) -> Tensor:
    """Lay the vertices on a line where both sides of every merge are neighbouring intervals.

    Return the (n,) int64 vertices in their order on the line; components one after the other.
    """
    ones = torch.ones_like(forest.component)
    sizes, before = _core_sizes(forest, merges, ones)
    begin = torch.empty_like(sizes)  # of every core on the line
    roots = (forest.key == FINISHED).nonzero().squeeze(1)
    lengths = sizes.index_select(0, roots)
    begin.scatter_(0, roots, lengths.cumsum(0, dtype=torch.int32) - lengths)
    for low, high in reversed(list(pairwise(merges.bounds))):
        owners, mates = (x[low:high].to(torch.int64) for x in (merges.owners, merges.mates))
        first = begin.index_select(0, merges.chains[low:high]) + before[low:high]
        begin.scatter_(0, owners, first)
        begin.scatter_(0, mates, first + sizes.index_select(0, owners))
    place = begin[: forest.n_vertices].to(torch.int64)
    line = torch.empty_like(place)
    return line.scatter_(0, place, torch.arange(len(line), device=line.device))


def weakest_links(forest: BoruvkaForest, picks: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Find the maximin edge of P pairs of vertices, never twice the same.

    `picks` are those of every supervertex, as anything that ascends from strong to weak and is
    largest for finished ones: the keys, or places in Kruskal's order. Return the pick that is the
    maximin edge; the largest value for pairs that no path joins.
    """
    weakest = torch.maximum(picks.index_select(0, one), picks.index_select(0, other))
    pending = torch.arange(len(one), device=one.device)
    finished = picks.max()
    while len(pending):
        one, other = (forest.parent.index_select(0, x) for x in (one, other))
        apart = (one != other) & (weakest.index_select(0, pending) != finished)
        apart = apart.nonzero().squeeze(1)
        pending, one, other = (x.index_select(0, apart) for x in (pending, one, other))
        link = torch.maximum(picks.index_select(0, one), picks.index_select(0, other))
        weakest.scatter_(0, pending, torch.maximum(link, weakest.index_select(0, pending)))
    return weakest


def _core_sizes(forest: BoruvkaForest, merges: Merges, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the weights in every core, and in every chain before each of its merges.

    Return (S + 1,) int32 sizes, at last 0 for mates that are not there; and what the chain has
    joined so far before each of the (M,) merges.
    """
    n = forest.n_vertices
    sizes = weights.new_zeros(len(forest.parent) + 1)
    sizes[:n] = weights
    # Of one chain after the other, before every merge; only differences within a chain matter.
    sums = torch.zeros(len(merges) + 1, dtype=torch.int64, device=weights.device)
    for round_, (low, high) in enumerate(pairwise(merges.bounds), start=1):
        first, last = forest.firsts[round_ : round_ + 2]
        added = sizes.index_select(0, merges.owners[low:high])
        added += sizes.index_select(0, merges.mates[low:high])
        torch.cumsum(added, 0, out=sums[low + 1 : high + 1])
        sums[low + 1 : high + 1] += sums[low]
        at_start = sums.index_select(0, merges.starts[first - n : last - n + 1])
        torch.sub(at_start[1:], at_start[:-1], out=sizes[first:last])
    at_start = sums.index_select(0, merges.starts).index_select(0, merges.chains - n)
    return sizes, (sums[:-1] - at_start).to(torch.int32)
