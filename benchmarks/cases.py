"""Cases that the benchmarks of the counts share, their yardstick, and the memory of a count.

The yardstick is Higra's own call, made twice as the two passes demand: ``hg.bpt_canonical(graph,
weights)`` on a graph object, with the weights of either pass. It includes neither the making of the
graph nor any counting, which ours do.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import higra as hg
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.clock import memory_of_process
from data.locate import find_volume
from malis import affinities_from_labels, nearest_offsets, pair_counts
from malis._checks import check_offsets
from malis.affinity import gather_edges, grid_edges

SEED = 0
COUNTS = ("constrained", "unconstrained", "masked")


def make_case(shape: tuple[int, ...], n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Make labels that fill a volume like neurons, and noisy affinities that follow them.

    Parameters
    ----------
    shape : tuple of int
    n_labels : int
        Number of Voronoi cells.

    Returns
    -------
    affinities : (ndim, *shape) float32 array
    labels : shape int64 array
    """
    rng = np.random.default_rng(SEED)
    seeds = rng.random((n_labels, len(shape))) * shape
    voxels = np.stack(np.indices(shape, dtype=np.float32), axis=-1).reshape(-1, len(shape))
    labels = cKDTree(seeds).query(voxels)[1].reshape(shape) + 1
    truth = affinities_from_labels(labels, nearest_offsets(len(shape)))
    noise = rng.normal(scale=0.25, size=truth.shape)
    return np.clip(0.2 + 0.6 * truth + noise, 0, 1).astype(np.float32), labels


def make_batch(shape: tuple[int, ...], seed: int = SEED) -> tuple[str, Tensor, Tensor]:
    """Cut labels out of FIB-25, or make cells where there is none, and affinities to them.

    Parameters
    ----------
    shape : tuple of int
        (B, *spatial).
    seed : int
        Of the noise on the affinities.

    Returns
    -------
    source : str
    affinities : (B, ndim, *spatial) float32 tensor
    labels : (B, *spatial) int64 tensor
    """
    ndim = len(shape) - 1
    try:
        with h5py.File(find_volume("fib25_train.hdf")) as file:
            ids = file["volumes/labels/neuron_ids"]
            crops = [_crop(ids, shape[1:], sample) for sample in range(shape[0])]
        source, labels = "FIB-25", np.stack(crops).astype(np.int64)
    except (FileNotFoundError, ValueError):
        source, labels = "cells", np.stack([make_case(shape[1:], 100)[1]] * shape[0])
    rng = np.random.default_rng(seed)
    truth = affinities_from_labels(labels, nearest_offsets(ndim))
    noisy = 0.2 + 0.6 * truth + rng.normal(scale=0.25, size=truth.shape)
    affinities = torch.from_numpy(np.clip(noisy, 0, 1).astype(np.float32))
    return source, affinities, torch.from_numpy(labels)


def _crop(ids: h5py.Dataset, shape: tuple[int, ...], sample: int) -> np.ndarray:
    """Take a corner of a volume, or of one of its sections; ValueError if it is too small."""
    crop = ids[tuple(map(slice, shape))] if len(shape) == 3 else ids[sample][: shape[0], : shape[1]]
    if crop.shape != tuple(shape):
        raise ValueError(f"wanted {shape}, got {crop.shape}")
    return crop


def count_edges(shape: tuple[int, ...]) -> int:
    """Count the edges of the nearest neighbourhood."""
    n_voxels = int(np.prod(shape))
    return sum(n_voxels - n_voxels // size for size in shape)


def plain_graph(
    affinities: np.ndarray, labels: np.ndarray
) -> tuple[hg.UndirectedGraph, list[np.ndarray]]:
    """Make the graph object and the edge weights of both passes."""
    offsets = check_offsets(nearest_offsets(labels.ndim))
    graph = hg.UndirectedGraph(labels.size)
    graph.add_edges(*grid_edges(labels.shape, offsets))
    values = gather_edges(affinities, offsets)
    inner = gather_edges(affinities_from_labels(labels, offsets), offsets).astype(bool)
    return graph, [1 - np.where(inner, values, 0), 1 - np.where(inner, 1, values)]


def plain_calls(graph: hg.UndirectedGraph, weights: list[np.ndarray]) -> None:
    """Build the two trees of the plain form, and nothing else."""
    for values in weights:
        hg.bpt_canonical(graph, values)


def measure_memory(affinities: np.ndarray, labels: np.ndarray, backend: str) -> dict[str, float]:
    """Measure by how many bytes per edge a fresh process grows at its peak when it counts.

    Parameters
    ----------
    affinities : (B, ndim, *spatial) float32 array
    labels : (B, *spatial) integer array
    backend : str
        See `malis.pair_counts`.

    Returns
    -------
    dict
        Bytes per edge by kind of count.
    """
    edges = len(labels) * count_edges(labels.shape[1:])
    grown = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(path, affinities=affinities, labels=labels)
        for kind in COUNTS:
            command = [sys.executable, "-m", "benchmarks.cases", backend, kind, str(path)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            grown[kind] = int(run.stdout) / edges
    return grown


def peak_of_one_count(backend: str, kind: str, path: str) -> int:
    """Count a corner, which loads what it takes; then all, and return the growth at the peak."""
    torch.set_num_threads(1)
    with np.load(path) as case:
        affinities, labels = case["affinities"], case["labels"]
    known = np.ones(affinities.shape, dtype=bool)
    known.ravel()[::20] = False
    for size in (4, None):
        part = (..., slice(size), slice(size))
        before = memory_of_process()["VmRSS"]
        pair_counts(
            affinities[part],
            labels[part],
            nearest_offsets(labels.ndim - 1),
            constrained=kind != "unconstrained",
            edge_mask=known[part] if kind == "masked" else None,
            backend=backend,
        )
    return memory_of_process()["VmHWM"] - before


if __name__ == "__main__":
    print(peak_of_one_count(*sys.argv[1:]))
