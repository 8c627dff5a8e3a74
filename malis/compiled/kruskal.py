r"""Kruskal's algorithm as compiled loops that count while they merge.

The loops do what `malis.pairs` describes. Constrained counts take the edges in two lists
(`list_edges`), each sorted by descending affinity (`sort_edges`):

1. The inner edges go through a union-find that knows the size of every region (`join`). Where one
   joins A and B, ``|A| |B|`` pairs are positive. What they leave are regions of one label each, and
   single voxels of background (`number_regions`).
2. The other edges join those regions. Of the pairs of a merge, those of one label do not count.

Without constraints the first list is empty, and every voxel is a region of its own.

**Half of the edges are never sorted** (`kruskal`). Once the stronger half has been through the
union-find, most weaker edges have both ends in one region. They are dropped in the order of the
voxels, where the memory is quick, before the rest is sorted.

**Pairs of one label, for any number of labels.** A merge joins a *heavy* side to a *light* one,
which has no more regions. Lay the regions out on a line, each light side directly behind what its
heavy side had gathered before (`region_line`). Then every region is the head of a stretch of the
line: the region itself, and behind it, one after the other, all the light sides that it took in.
Walk along the stretch with a table of how many voxels each label has so far: look up the labels of
a light side in the table, then add them to it (`count_labels`). A region is on the light side of at
most log2 R merges, because its side at least doubles each time. So all walks together take
O(R log R) steps for R regions, and one table, cleared after each walk, serves them all.

For the six voxels of `malis.tensor_backend.merges`, with labels a1 b2 c1 d1 e0 f2, in a single
pass::

    a ---.2--- b ---.9--- c ---.5--- d ---.8--- e ---.7--- f

    merge   edge    heavy + light    line of both sides
    0       .9      b + c            b c
    1       .8      d + e            d e
    2       .7      d + f            d e f
    3       .5      d + b            d e f b c
    4       .2      d + a            d e f b c a

    the stretch of d    table before    pairs    of one label    of two
    e (background)      1: 1            0        0               0
    f                   1: 1            1 * 1    0               1
    b c                 1: 1, 2: 1      2 * 2    2               2
    a                   1: 2, 2: 2      4 * 1    2               2

All compiled functions stand in this file, because Numba's cache of compiled code only notices a
change in the file of the function that is called.

References
----------
Kruskal 1956; Tarjan, J. ACM 22, 1975 (union-find); Osipov, Sanders and Singler, ALENEX 2009 (the
filter); Funke et al., IEEE TPAMI 41(7), 2019.
"""

from collections.abc import Callable

import numba
import numpy as np

Array = np.ndarray

# Which list an edge goes to, or none (-1), by [is inner][is known].
CONSTRAINED = np.array([[1, 1], [1, 0]], dtype=np.int8)
POSITIVE_PASS = np.array([[1, -1], [1, 1]], dtype=np.int8)  # known boundaries would come last
UNCONSTRAINED = np.ones((2, 2), dtype=np.int8)

# Unsigned, all of them: of a signed and an unsigned integer, Numba makes a float.
HALF, LOWER_HALF = np.uint64(32), np.uint64(2**32 - 1)
SIGN = np.uint32(2**31)
DIGIT, DIGIT_MASK = np.uint64(11), np.uint64(2**11 - 1)  # bits that a pass of the sort looks at
FEW = 2**15  # edges that are sorted at once


def compiled(function: Callable) -> Callable:
    """Compile a function when it is first called; keep the machine code on disk if possible."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's own cache may Numba write
        return numba.njit(nogil=True)(function)


@compiled
def count_batch(
    bits: Array, labels: Array, known: Array, n_labels: int, shape: Array, offsets: Array,
    steps: Array, lists: Array, words: Array, voxels: Array, merges: Array, positive: Array,
    negative: Array,
) -> None:  # fmt: skip
    """Count the pairs of every edge, sample by sample.

    Parameters
    ----------
    bits : (B, C * N) uint32 array
        Of float32 values, finite and of any sign; edges are taken in descending order of them.
    labels : (B, N) int32 array
        In 0 ... `n_labels`; 0 = background.
    known : (B, C * N) bool array, or (1, 1)
    n_labels : int
    shape, offsets, steps : (ndim,), (C, ndim) and (C,) int64 arrays
        Of a sample, of N voxels; `steps` are the offsets between flat indices.
    lists : (2, 2) int8 array
        `CONSTRAINED`, `POSITIVE_PASS` or `UNCONSTRAINED`.
    words, voxels, merges : (3, C * N) uint64, (2, N) int32 and (3, N) uint32 arrays
        Room to work in.
    positive, negative : (B, C * N) int64 arrays
        Zeros; the counts are written here. With `CONSTRAINED`, the positive ones are those of the
        first list alone.
    """
    table = np.zeros(n_labels + 1, np.int64)
    parents, numbers = voxels
    for sample in range(len(bits)):
        first, second = list_edges(
            bits[sample], labels[sample], known[sample % len(known)], shape, offsets, steps, lists,
            words,
        )  # fmt: skip
        parents[:] = -1
        n_merges = kruskal(first, words[2], steps, parents, positive[sample], merges)
        own, weights = number_regions(parents, labels[sample], numbers, len(parents) - n_merges)
        n_merges = kruskal(second, words[2], steps, parents, negative[sample], merges)
        heavy, light, edges = merges[:, :n_merges]
        line = region_line(numbers[heavy], numbers[light], own, weights)
        same, different = count_labels(*line, table)
        for number, edge in enumerate(edges):
            negative[sample, edge] = different[number]
            if lists[1, 1] != 0:
                positive[sample, edge] = same[number]


@compiled
def list_edges(
    bits: Array, labels: Array, known: Array, shape: Array, offsets: Array, steps: Array,
    lists: Array, words: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """List the existing edges in `words`, each as 64 bits: its key above, its flat index below.

    The bits of float32 numbers that are not negative sort like the numbers, those of the others the
    other way round. Keys ascend where the numbers descend, and -0 equals 0.
    """
    n_voxels, width, outer = len(labels), shape[-1], len(shape) - 1
    n_first, n_second = 0, 0
    for channel in range(len(offsets)):
        step, ahead = steps[channel], offsets[channel, outer]
        for row in range(n_voxels // width):
            inside, rest = True, row
            for axis in range(outer - 1, -1, -1):
                inside &= 0 <= rest % shape[axis] + offsets[channel, axis] < shape[axis]
                rest //= shape[axis]
            if not inside:
                continue
            for voxel in range(row * width + max(0, -ahead), (row + 1) * width - max(0, ahead)):
                edge = channel * n_voxels + voxel
                inner = labels[voxel] == labels[voxel + step] and labels[voxel] != 0
                chosen = lists[int(inner), int(known[edge if len(known) > 1 else 0])]
                key = bits[edge] if bits[edge] > SIGN else ~(bits[edge] | SIGN)
                word = (np.uint64(key) << HALF) | np.uint64(edge)
                if chosen == 0:
                    words[0, n_first] = word
                    n_first += 1
                elif chosen == 1:
                    words[1, n_second] = word
                    n_second += 1
    return words[0, :n_first], words[1, :n_second]


@compiled
def sort_edges(words: Array, spare: Array) -> Array:
    """Sort edges by their keys, with a radix sort: equal keys stay in the order of the edges.

    The result lies in `words` or in `spare`, whichever the last pass wrote.
    """
    if len(words) == 0:
        return words
    least, most = words[0], words[0]
    for word in words:
        least, most = min(least, word), max(most, word)
    base, spare = least & ~LOWER_HALF, spare[: len(words)]
    span, shift = (most - base) >> HALF, HALF
    while span > np.uint64(0):  # only digits in which keys differ
        starts = np.zeros(DIGIT_MASK + np.uint64(2), np.int64)
        for word in words:
            starts[(((word - base) >> shift) & DIGIT_MASK) + np.uint64(1)] += 1
        for digit in range(1, len(starts)):
            starts[digit] += starts[digit - 1]
        for word in words:
            digit = ((word - base) >> shift) & DIGIT_MASK
            spare[starts[digit]] = word
            starts[digit] += 1
        words, spare = spare, words
        span, shift = span >> DIGIT, shift + DIGIT
    return words


@compiled
def find(parents: Array, vertex: int) -> int:
    """Find the root above a vertex, and halve the way to it; a root has a negative parent."""
    above = parents[vertex]
    while above >= 0:
        top = parents[above]
        if top < 0:
            return above
        parents[vertex] = top
        vertex, above = top, parents[top]
    return vertex


@compiled
def join(words: Array, steps: Array, parents: Array, counts: Array, merges: Array, n: int) -> int:
    """Join the ends of sorted edges, after `n` merges; return how many merges there are then.

    `parents` lead to a voxel further up in the same region, or are minus the size of the region at
    its root. ``|A| |B|`` is written to the count of every edge that joins A to B, and to `merges`
    the heavy root, which becomes that of both, the light root and the edge.
    """
    n_voxels = np.uint64(len(parents))
    for word in words:
        edge = word & LOWER_HALF
        channel = edge // n_voxels
        one = np.int64(edge - channel * n_voxels)
        other = one + steps[channel]
        if parents[one] == parents[other] and parents[one] >= 0:
            continue  # most edges end here
        a, b = find(parents, one), find(parents, other)
        if a != b:
            counts[edge] = np.int64(parents[a]) * np.int64(parents[b])
            if parents[a] > parents[b]:
                a, b = b, a
            parents[a] += parents[b]
            parents[b] = a
            merges[0, n], merges[1, n], merges[2, n] = a, b, edge
            n += 1
    return n


@compiled
def kruskal(
    words: Array, spare: Array, steps: Array, parents: Array, counts: Array, merges: Array
) -> int:
    """Join the ends of all edges: the stronger half, and what is still apart of the weaker one.

    See `join`. The edges, from `list_edges`, and as much room are overwritten.
    """
    if len(words) < FEW:
        return join(sort_edges(words, spare), steps, parents, counts, merges, 0)
    sample = words[:: len(words) // 1000].copy()
    median = sort_edges(sample, np.empty_like(sample))[len(sample) // 2] | LOWER_HALF
    n_strong, n_weak = 0, 0
    for word in words:
        if word <= median:
            spare[n_strong] = word
            n_strong += 1
        else:
            words[n_weak] = word
            n_weak += 1
    strong = sort_edges(spare[:n_strong], words[n_weak:])
    n_merges = join(strong, steps, parents, counts, merges, 0)
    n_voxels, n_apart = np.uint64(len(parents)), 0
    for word in words[:n_weak]:
        channel = (word & LOWER_HALF) // n_voxels
        one = np.int64((word & LOWER_HALF) - channel * n_voxels)
        if find(parents, one) != find(parents, one + steps[channel]):
            words[n_apart] = word
            n_apart += 1
    return join(sort_edges(words[:n_apart], spare), steps, parents, counts, merges, n_merges)


@compiled
def number_regions(
    parents: Array, labels: Array, numbers: Array, n_regions: int
) -> tuple[Array, Array]:
    """Write a number to every root, and let it stand for one region instead of for its voxels.

    Returns
    -------
    own, weights : (R,) int32 and int64 arrays
        Label of every region, and how many of its voxels are of an object.
    """
    own, weights = np.empty(n_regions, np.int32), np.empty(n_regions, np.int64)
    number = 0
    for voxel in range(len(parents)):
        if parents[voxel] < 0:
            own[number] = labels[voxel]
            weights[number] = -parents[voxel] if labels[voxel] else 0
            numbers[voxel], parents[voxel] = number, -1
            number += 1
    return own, weights


@compiled
def region_line(
    heavy: Array, light: Array, own: Array, weights: Array
) -> tuple[Array, Array, Array, Array]:
    """Lay the regions out so that either side of every merge is a stretch of the line.

    Returns
    -------
    labels, weights, sizes, ends : (R,) arrays
        Along the line: label and voxels of a region, regions in the stretch that it heads, and the
        merge whose light side that was (M if none).
    """
    n_regions, n_merges = len(own), len(light)
    sizes, position, ends = np.empty((3, n_regions), np.int32)
    before = np.empty(n_merges, np.int32)
    sizes[:], ends[:] = 1, n_merges
    for number in range(n_merges):
        ends[light[number]] = number
        before[number] = sizes[heavy[number]]
        sizes[heavy[number]] += sizes[light[number]]
    start = 0
    for region in range(n_regions):
        if ends[region] == n_merges:  # the head of a piece of the graph
            position[region] = start
            start += sizes[region]
    for number in range(n_merges - 1, -1, -1):
        position[light[number]] = position[heavy[number]] + before[number]
    labels, lengths, stops = np.empty((3, n_regions), np.int32)
    voxels = np.empty(n_regions, np.int64)
    for region in range(n_regions):
        place = position[region]
        labels[place], voxels[place] = own[region], weights[region]
        lengths[place], stops[place] = sizes[region], ends[region]
    return labels, voxels, lengths, stops


@compiled
def count_labels(
    labels: Array, weights: Array, sizes: Array, ends: Array, table: Array
) -> tuple[Array, Array]:
    """Count the pairs of one label and of two at every merge.

    The arguments are what `region_line` returns and a zero for every label, which stays zero.
    """
    same, different = np.empty((2, len(labels)), np.int64)
    for head in range(len(labels)):
        stop, end = head + 1, head + sizes[head]
        gathered = weights[head]
        table[labels[head]] = gathered
        while stop < end:
            start, stop = stop, stop + sizes[stop]
            taken, alike = 0, 0
            for place in range(start, stop):
                taken += weights[place]
                alike += weights[place] * table[labels[place]]
            for place in range(start, stop):
                table[labels[place]] += weights[place]
            same[ends[start]], different[ends[start]] = alike, gathered * taken - alike
            gathered += taken
        for place in range(head, end):
            table[labels[place]] = 0
    return same, different


@compiled
def weakest_links(merges: Array, n_voxels: int, pairs: Array) -> Array:
    """Find the edge of the merge that brought the two voxels of every pair together, or -1.

    The one whose side is light in the earlier merge steps to the heavy root, until both have met.
    That takes at most 2 log2 N steps, because a side at least doubles each time.
    """
    heavy, light, edges = merges
    ends = np.full(n_voxels, len(light), np.int32)
    for number in range(len(light)):
        ends[light[number]] = number
    found = np.full(len(pairs), -1, np.int64)
    for number in range(len(pairs)):
        one, other = pairs[number]
        while one != other:
            if ends[one] > ends[other]:
                one, other = other, one
            merge = ends[one]
            if merge == len(light):
                found[number] = -1
                break
            found[number], one = edges[merge], heavy[merge]
    return found
