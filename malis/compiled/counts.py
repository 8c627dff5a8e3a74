"""From checked arrays to the compiled loops, and back."""

import numpy as np

from malis.affinity import same_object
from malis.compiled.kruskal import (
    CONSTRAINED,
    POSITIVE_PASS,
    UNCONSTRAINED,
    count_batch,
    kruskal,
    list_edges,
    weakest_links,
)
from malis.labels import number_labels


def compiled_pair_counts(
    values: np.ndarray,
    labels: np.ndarray,
    edge_mask: np.ndarray | None,
    labelled_mask: np.ndarray | None,
    offsets: np.ndarray,
    constrained: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Count the voxel pairs that every edge decides: `malis.pair_counts` in compiled loops.

    Values, float32, may be affinities or logits, finite on edges within the volume; masks are
    booleans, offsets (C, ndim) int64. O(E α(N) + R log R) work for E edges, N voxels and the R
    regions that the inner edges leave (without constraints, R = N). One thread takes one sample
    after the other, and leaves Python to other threads meanwhile.
    """
    shape, spatial = values.shape, np.array(values.shape[-offsets.shape[1] :])
    n_voxels, steps = _flat_steps(spatial, offsets)
    width = len(offsets) * n_voxels
    bits = _rows(values, np.float32, width).view(np.uint32)
    numbers, ids = number_labels(labels)
    numbers, n_labels = numbers.ravel(), len(ids)
    known = np.ones((1, 1), dtype=bool) if edge_mask is None else edge_mask
    if labelled_mask is not None and not labelled_mask.all():
        n_labels += 1
        numbers[~labelled_mask.ravel()] = n_labels
        known = known & ~same_object(~labelled_mask, offsets)
    masked = not known.all()
    known = _rows(known, bool, width) if masked else np.ones((1, 1), dtype=bool)
    room = (
        np.empty((3, width), dtype=np.uint64),
        np.empty((2, n_voxels), dtype=np.int32),
        np.empty((3, n_voxels), dtype=np.uint32),
    )

    def count(lists: np.ndarray) -> np.ndarray:
        counts = np.zeros((2, *bits.shape), dtype=np.int64)
        own = numbers.reshape(-1, n_voxels)
        count_batch(bits, own, known, n_labels, spatial, offsets, steps, lists, *room, *counts)
        return counts

    positive, negative = count(CONSTRAINED if constrained else UNCONSTRAINED)
    if masked:
        if constrained:
            positive, _ = count(POSITIVE_PASS)
        positive[~known], negative[~known] = 0, 0
    return positive.reshape(shape), negative.reshape(shape)


def compiled_maximin_edges(
    values: np.ndarray, offsets: np.ndarray, pairs: np.ndarray
) -> np.ndarray:
    """Find the maximin edge of (P, 2) flat voxel indices: `malis.maximin_edges` in compiled loops.

    Values are as for `compiled_pair_counts`, but of one sample.
    """
    spatial = np.array(values.shape[1:])
    n_voxels, steps = _flat_steps(spatial, offsets)
    bits = _rows(values, np.float32, values.size)[0].view(np.uint32)
    labels, known = np.zeros(n_voxels, dtype=np.int32), np.ones(1, dtype=bool)
    words = np.empty((3, values.size), dtype=np.uint64)
    merges = np.empty((3, n_voxels), dtype=np.uint32)
    _, edges = list_edges(bits, labels, known, spatial, offsets, steps, UNCONSTRAINED, words)
    parents = np.full(n_voxels, -1, dtype=np.int32)
    counts = np.empty(values.size, dtype=np.int64)
    n_merges = kruskal(edges, words[2], steps, parents, counts, merges)
    found = weakest_links(merges[:, :n_merges], n_voxels, _rows(pairs, np.int64, 2))
    located = np.stack(np.unravel_index(np.maximum(found, 0), values.shape), axis=1)
    return np.where(found[:, None] < 0, -1, located)


def _flat_steps(shape: np.ndarray, offsets: np.ndarray) -> tuple[int, np.ndarray]:
    """Count the voxels, and turn the offsets into steps between flat indices."""
    strides = np.append(shape[:0:-1].cumprod()[::-1], 1)
    return int(shape.prod()), offsets @ strides


def _rows(array: np.ndarray, dtype: type, width: int) -> np.ndarray:
    """Return an array as rows; of one kind for Numba, so that it compiles everything once."""
    return np.require(array, dtype, ["C", "W", "E"]).reshape(-1, width)
