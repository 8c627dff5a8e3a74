r"""Borůvka's rounds: the maximum spanning forest of a graph, grown everywhere at once.

In every round, each vertex picks its strongest edge, and the picked edges melt vertices into the
*supervertices* of the next round. At least half of the vertices disappear in each round, so there
are at most log2(n) + 1 of them; within a round, no vertex waits for another.

Vertices have the numbers 0 ... n-1, and the supervertices of all rounds are numbered on from there.
Of every supervertex the forest keeps

- ``key``: its picked edge; keys sort edges from strong to weak and are all different;
- ``far``: the supervertex at the other end of that edge;
- ``parent``: the supervertex of the next round that it melts into.

Keys being different, following the picks leads into no cycle but one: the strongest edge of a group
is picked from both of its ends. Those two are *mutual*, and the lower number is the root of the
group. A supervertex without edges is *finished*: its own ``far`` and its own ``parent``.

Three rounds of a graph of six vertices are worked through in `malis.tensor_backend.merges`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from malis._checks import exceeds_parallel
from malis.affinity import edge_slices

FINISHED = torch.iinfo(torch.int64).max  # key of a supervertex that has no edge to pick
_NUMBER_BITS = 32  # the low half of a key is the number of the edge
_ALL_BUT_SIGN = 0x7FFFFFFF


@dataclass(frozen=True)
class BoruvkaForest:
    """All rounds of Borůvka's algorithm on n vertices: S supervertices, the vertices included.

    Parameters
    ----------
    parent, far : (S,) int32 tensors
    key : (S,) int64 tensor
        `FINISHED` where there is no edge.
    component : (n,) int32 tensor
        The finished supervertex that every vertex ends in.
    firsts : list of int
        First supervertex of every round; at last S.
    """

    parent: Tensor
    far: Tensor
    key: Tensor
    component: Tensor
    firsts: list[int]

    @property
    def n_vertices(self) -> int:
        """Number of vertices of the graph."""
        return len(self.component)


class Grid:
    """A grid graph of n voxels: edge ``channel * n + v`` joins voxel v to ``v + offset``.

    A batch is a grid with one more axis, along which no offset steps.

    Parameters
    ----------
    affinities : (C, *shape) float32 tensor
        No NaN.
    offsets : (C, ndim) int64 array

    Raises
    ------
    ValueError
        If there are 2^29 voxels or 2^31 edges, or more.
    """

    def __init__(self, affinities: Tensor, offsets: np.ndarray) -> None:
        self.shape = affinities.shape[1:]
        self.n_voxels = self.shape.numel()
        if exceeds_parallel(affinities.shape, len(self.shape)):
            raise ValueError(
                f'backend="parallel" numbers fewer than 2^29 voxels and 2^31 edges of a batch, got '
                f'{self.n_voxels} and {affinities.numel()}; take fewer samples or "higra"'
            )
        # As integers, the bits of positive floats ascend like the floats, those of negative ones
        # descend; -0.0 becomes 0.0.
        bits = (affinities.contiguous() + 0).view(torch.int32)
        bits ^= (bits >> 31) & _ALL_BUT_SIGN
        self.codes = bits.bitwise_not_()
        self.slices = [edge_slices(self.shape, offset) for offset in offsets]
        strides = [self.shape[axis + 1 :].numel() for axis in range(len(self.shape))]
        self.steps = torch.tensor(offsets @ np.array(strides), device=affinities.device)

    def edges_where(self, holds: Callable[[tuple, tuple], Tensor | bool]) -> Tensor:
        """Mark the edges whose ends fulfil a condition, (C, *shape); none that leaves the volume.

        `holds` goes from the slices of a volume that hold the two ends of a channel's edges to
        booleans.
        """
        marked = torch.zeros_like(self.codes, dtype=torch.bool)
        for channel, (sources, targets) in enumerate(self.slices):
            marked[channel][sources] = holds(sources, targets)
        return marked

    def inner_edges(self, labels: Tensor) -> Tensor:
        """Mark the edges within one object of a volume of labels."""
        return self.edges_where(lambda a, b: (labels[a] == labels[b]) & (labels[a] != 0))

    def ends(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the voxels that edges join: int32, and some voxels for an edge without ends."""
        numbers = numbers.to(torch.int32)
        channels = numbers // self.n_voxels
        sources = numbers - channels * self.n_voxels
        targets = sources + self.steps.to(torch.int32).index_select(0, channels)
        return sources, targets.clamp_(0, self.n_voxels - 1)

    def list_edges(self, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """List the edges that are `taken`, by ascending number: int32 ends and int64 keys."""
        lists = []
        for channel, step in enumerate(self.steps):
            sources = taken[channel].flatten().nonzero().squeeze(1)
            codes = self.codes[channel].flatten().index_select(0, sources)
            keys = edge_keys(codes, sources + channel * self.n_voxels)
            lists.append((sources.to(torch.int32), (sources + step).to(torch.int32), keys))
        sources, targets, keys = (torch.cat(parts) for parts in zip(*lists, strict=True))
        return sources, targets, keys


def edge_keys(codes: Tensor, numbers: Tensor) -> Tensor:
    """Combine codes and edge numbers into int64 keys that sort by code, then by number."""
    return (codes.to(torch.int64) << _NUMBER_BITS) | numbers


def edge_numbers(keys: Tensor) -> Tensor:
    """Recover the numbers of edges from their keys."""
    return keys & (2**_NUMBER_BITS - 1)


def edge_codes(keys: Tensor) -> Tensor:
    """Recover the codes of edges from their keys."""
    return (keys >> _NUMBER_BITS).to(torch.int32)


def grid_forest(grid: Grid, taken: Tensor) -> BoruvkaForest:
    """Run Borůvka's algorithm on the edges of a grid graph that (C, *shape) booleans mark.

    In the first round, by far the largest, every voxel finds its strongest edge by comparing
    shifted views of the volume; only the edges that survive it are listed.
    """
    rounds = _Rounds(grid.n_voxels, grid.codes.device, grid.ends)
    strongest = rounds.key[: grid.n_voxels].view(grid.shape)
    numbers = torch.arange(grid.n_voxels, device=strongest.device).view(grid.shape)
    for channel, (sources, targets) in enumerate(grid.slices):
        codes = grid.codes[channel][sources]
        keys = edge_keys(codes, numbers[sources] + channel * grid.n_voxels)
        keys.masked_fill_(~taken[channel][sources], FINISHED)
        for end in (sources, targets):
            torch.minimum(strongest[end], keys, out=strongest[end])
    rounds.melt()

    supervertex = rounds.component.view(grid.shape)
    apart = grid.edges_where(lambda sources, targets: supervertex[sources] != supervertex[targets])
    sources, targets, keys = grid.list_edges(apart.logical_and_(taken))
    sources, targets = (rounds.component.index_select(0, end) for end in (sources, targets))
    return rounds.run(sources, targets, keys)


def list_forest(n_vertices: int, sources: Tensor, targets: Tensor, codes: Tensor) -> BoruvkaForest:
    """Run Borůvka's algorithm on a list of edges; an edge's number is its place in the list.

    Sources and targets, (E,) int32, are the two different ends of every edge; codes, int32, ascend
    from the strongest edge to the weakest, and ties fall to the lower number.
    """
    keys = edge_keys(codes, torch.arange(len(codes), device=codes.device))

    def ends(numbers: Tensor) -> tuple[Tensor, Tensor]:
        return sources.index_select(0, numbers), targets.index_select(0, numbers)

    return _Rounds(n_vertices, codes.device, ends).run(sources, targets, keys)


class _Rounds:
    """A forest while it grows; `ends` finds the vertices that edges of some numbers join."""

    def __init__(
        self, n_vertices: int, device: torch.device, ends: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        # A round has at most half as many supervertices as the one before: fewer than 2n together.
        self.key = torch.full((2 * n_vertices,), FINISHED, device=device)
        self.far = torch.empty(2 * n_vertices, dtype=torch.int32, device=device)
        self.parent = torch.empty_like(self.far)
        self.component = torch.arange(n_vertices, dtype=torch.int32, device=device)
        self.firsts = [0, n_vertices]
        self.ends = ends

    def run(self, sources: Tensor, targets: Tensor, keys: Tensor) -> BoruvkaForest:
        """Build rounds until no edge is left between two supervertices of the last round."""
        while len(keys):
            for end in (sources, targets):
                self.key.scatter_reduce_(0, end.to(torch.int64), keys, "amin")
            self.melt()
            sources, targets = (self.parent.index_select(0, end) for end in (sources, targets))
            apart = (sources != targets).nonzero().squeeze(1)
            sources, targets, keys = (x.index_select(0, apart) for x in (sources, targets, keys))
        first, last = self.firsts[-2:]  # no edges: whole components, or nothing
        self.far[first:last] = self.parent[first:last] = torch.arange(
            first, last, dtype=torch.int32, device=self.far.device
        )
        if first == last:
            self.firsts.pop()
        return BoruvkaForest(
            self.parent[:last], self.far[:last], self.key[:last], self.component, self.firsts
        )

    def melt(self) -> None:
        """Let the supervertices of the last round melt along the edges that they have picked."""
        first, last = self.firsts[-2:]
        key, far, parent = (x[first:last] for x in (self.key, self.far, self.parent))
        own = torch.arange(first, last, dtype=torch.int32, device=key.device)
        finished = key == FINISHED

        # Of the two supervertices that the picked edge joins, the one that is not the own one.
        one, other = self.ends(edge_numbers(key).masked_fill_(finished, 0))
        both = self.component.index_select(0, one) + self.component.index_select(0, other)
        torch.where(finished, own, both.sub_(own), out=far)
        mutual = self.far.index_select(0, far) == own
        root = mutual & (own <= far)

        top = torch.where(root, own, far).sub_(first)
        while True:  # a jump doubles the distance; one in two is checked, as that waits for a GPU
            top = top.index_select(0, top)
            above = top.index_select(0, top)
            if torch.equal(top, above):
                break
            top = above

        number = (root & ~finished).cumsum(0, dtype=torch.int32).add_(last - 1)
        torch.where(finished, own, number.index_select(0, top), out=parent)
        self.component = self.parent.index_select(0, self.component)
        self.firsts.append(int(number[-1]) + 1)
