"""Pair counts without trees: the strongest path of every pair of voxels, by Floyd and Warshall.

Nothing here is shared with the package: edges are listed with loops, ordered with Python's sort,
and the bottleneck of every pair is found from all others. O(n^3), for graphs of some 40 voxels.
"""

from itertools import combinations, product

import numpy as np


def list_edges(shape, offsets):
    """Edges as (channel, voxel, other voxel), channel by channel, in C order."""
    edges = []
    for channel, offset in enumerate(offsets):
        for voxel in product(*map(range, shape)):
            other = tuple(int(x) for x in np.add(voxel, offset))
            if all(0 <= x < n for x, n in zip(other, shape, strict=True)):
                edges.append((channel, voxel, other))
    return edges


def bottlenecks(shape, edges, ranks):
    """For every two voxels, the edge number of the weakest link of their strongest path, or -1."""
    n = int(np.prod(shape))
    far = len(edges)
    worst = np.full((n, n), far)
    for (_, voxel, other), rank in zip(edges, ranks, strict=True):
        u, v = (int(np.ravel_multi_index(x, shape)) for x in (voxel, other))
        worst[u, v] = worst[v, u] = min(worst[u, v], rank)
    for middle in range(n):
        worst = np.minimum(worst, np.maximum(worst[:, [middle]], worst[[middle], :]))
    edge_of_rank = np.append(np.argsort(ranks), -1)
    return edge_of_rank[worst]


def rank_edges(keys):
    """Place of every edge in the sorted order of its key; equal keys in order of edge number."""
    order = sorted(range(len(keys)), key=lambda edge: (keys[edge], edge))
    ranks = np.empty(len(keys), dtype=int)
    ranks[order] = np.arange(len(keys))
    return ranks


def count_pairs(affinities, labels, offsets, constrained=True, edge_mask=None, labelled_mask=None):
    """Positive and negative counts, shaped like the affinities, from all pairs one by one."""
    shape = labels.shape
    edges = list_edges(shape, offsets)
    labels = [int(label) for label in labels.ravel()]
    known = [edge_mask is None or bool(edge_mask[(c, *voxel)]) for c, voxel, _ in edges]
    if labelled_mask is not None:
        unlabelled = [not value for value in np.ravel(labelled_mask)]
        fresh = max(labels) + 1
        labels = [fresh if off else label for off, label in zip(unlabelled, labels, strict=True)]
    inner = []
    for number, (_, voxel, other) in enumerate(edges):
        u, v = (int(np.ravel_multi_index(x, shape)) for x in (voxel, other))
        inner.append(labels[u] == labels[v] != 0)
        if labelled_mask is not None and unlabelled[u] and unlabelled[v]:
            known[number] = False
    values = [float(affinities[(c, *voxel)]) for c, voxel, _ in edges]

    def passing(waits, counted):
        keys = [(wait, -value) for wait, value in zip(waits, values, strict=True)]
        deciding = bottlenecks(shape, edges, rank_edges(keys))
        counts = np.zeros((2, *affinities.shape), dtype=np.int64)
        for u, v in combinations(range(len(labels)), 2):
            edge = deciding[u, v]
            if edge >= 0 and labels[u] and labels[v] and counted[edge]:
                channel, voxel, _ = edges[edge]
                counts[(int(labels[u] != labels[v]), channel, *voxel)] += 1
        return counts

    if not constrained:
        return passing([False] * len(edges), known)
    boundary_waits = [k and not i for k, i in zip(known, inner, strict=True)]
    inner_goes_first = [not (k and i) for k, i in zip(known, inner, strict=True)]
    positive = passing(boundary_waits, [k and i for k, i in zip(known, inner, strict=True)])[0]
    negative = passing(inner_goes_first, boundary_waits)[1]
    return positive, negative
