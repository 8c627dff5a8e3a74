"""Random voxel pairs for the loss of Turaga et al. 2009.

There are N(N-1)/2 pairs of N voxels, and nearly all of them lie in two different objects. Sampling
half of the pairs within objects and half across keeps either kind from drowning the other.
"""

import numpy as np


def sample_pairs(
    labels: np.ndarray, n_pairs: int, rng: np.random.Generator, *, balanced: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of voxels that are not background, independently and with replacement.

    Parameters
    ----------
    labels : (*spatial) integer array
        Object ids, 0 = background.
    n_pairs : int
        Number of pairs to draw.
    rng : np.random.Generator
    balanced : bool
        Draw half of the pairs uniformly from all pairs of one object and half uniformly from all
        pairs of two (if one kind does not exist, all from the other); otherwise all uniformly from
        all pairs.

    Returns
    -------
    pairs : (P, 2) int64 array
        Flat C-order voxel indices; P = `n_pairs`, or 0 where no pair exists.
    same : (P,) bool array
        Whether both voxels carry one label.
    """
    flat = labels.ravel()
    voxels = np.flatnonzero(flat)
    voxels = voxels[np.argsort(flat[voxels], kind="stable")]  # one block of voxels per label
    n_voxels = len(voxels)
    if n_voxels < 2 or n_pairs == 0:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=bool)
    if not balanced:
        first, second = _two_of(np.full(n_pairs, n_voxels), rng)
        pairs = np.stack([voxels[first], voxels[second]], axis=1)
        return pairs, flat[pairs[:, 0]] == flat[pairs[:, 1]]

    starts = np.flatnonzero(np.concatenate([[True], np.diff(flat[voxels]) != 0]))
    sizes = np.diff(np.append(starts, n_voxels))
    same_weights, different_weights = sizes * (sizes - 1), sizes * (n_voxels - sizes)
    n_same = n_pairs // 2
    if not same_weights.any():
        n_same = 0
    elif not different_weights.any():
        n_same = n_pairs

    block = _draw_blocks(same_weights, n_same, rng)
    first, second = _two_of(sizes[block], rng)
    same_pairs = voxels[starts[block] + first], voxels[starts[block] + second]

    block = _draw_blocks(different_weights, n_pairs - n_same, rng)
    first = starts[block] + rng.integers(sizes[block])
    second = rng.integers(n_voxels - sizes[block])  # a place among the voxels of other blocks
    second += np.where(second >= starts[block], sizes[block], 0)
    different_pairs = voxels[first], voxels[second]

    pairs = np.concatenate([np.stack(same_pairs, axis=1), np.stack(different_pairs, axis=1)])
    return pairs, np.arange(n_pairs) < n_same


def _draw_blocks(weights: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw block numbers with probabilities proportional to integer weights, exactly."""
    if n_draws == 0:
        return np.zeros(0, dtype=np.int64)
    total = np.cumsum(weights)
    return np.searchsorted(total, rng.integers(total[-1], size=n_draws), side="right")


def _two_of(sizes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two different places in each of many blocks of the given sizes."""
    first = rng.integers(sizes)
    second = rng.integers(sizes - 1)
    return first, second + (second >= first)
