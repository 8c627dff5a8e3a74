"""How long the pair counts take: against the plain form, over sizes, and over numbers of labels.

    python -m benchmarks.loss                  all of it; writes report/results/benchmark_loss.json
    python -m benchmarks.loss --quick          small sizes only, writes nothing
    python -m benchmarks.loss --device cuda    the tensor operations on a GPU instead, all of
                                               `benchmarks.parallel_loss`

The yardstick is Higra's own call, made twice as the two passes demand: ``hg.bpt_canonical(graph,
weights)`` on a graph object, with the weights of either pass (and, beside it, with the affinities
as they are: fewer ties, more time). It includes neither the making of the graph nor any counting,
which ours do. "pair_counts" is Higra's path, "parallel" the tensor
form. Times are the least of several runs on one thread; the ratio compares two times of the same
process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import higra as hg
import numpy as np
import torch
from scipy.spatial import cKDTree

from benchmarks.clock import memory_of_process
from malis import MalisLoss, nearest_offsets, pair_counts
from malis._checks import check_offsets
from malis.affinity import affinities_from_labels, gather_edges, grid_edges
from malis.maximin import merge_order
from report.record import write_results

SIZES = [(64, 64), (164, 164), (256, 256), (512, 512), (1024, 1024)]
SIZES += [(32,) * 3, (48,) * 3, (64,) * 3, (96,) * 3, (128,) * 3]
LABEL_NUMBERS = [5, 50, 500, 5000]
PLAIN_TABLE_BYTES = 1e9  # the plain form is left out where its table would be larger
SEED = 0


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


def least_time(work: Callable[[], object], repeats: int) -> float:
    """Return the least wall-clock time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


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


def plain_counts(affinities: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Count the pairs the plain way: two trees, and for each a table of nodes times labels."""
    graph, weights = plain_graph(affinities, labels)
    one_hot = np.eye(labels.max() + 1)[labels.ravel()]
    counts = []
    for wanted, values in zip(("same", "different"), weights, strict=True):
        tree, _ = hg.bpt_canonical(graph, values)
        table = hg.accumulate_sequential(tree, one_hot, hg.Accumulators.sum)
        inner = np.arange(labels.size, 2 * labels.size - 1)
        first, second = (table[tree.child(i, inner)] for i in (0, 1))
        same = (first * second).sum(1)
        pairs = same if wanted == "same" else first.sum(1) * second.sum(1) - same
        count = np.zeros(len(values))
        count[tree.mst_edge_map] = pairs
        counts.append(count)
    return counts


def plain_calls(graph: hg.UndirectedGraph, weights: list[np.ndarray]) -> None:
    """Build the two trees of the plain form, and nothing else."""
    for values in weights:
        hg.bpt_canonical(graph, values)


def loss_and_gradient(affinities: torch.Tensor, labels: torch.Tensor) -> None:
    """Compute the constrained loss and its gradient."""
    loss = MalisLoss(nearest_offsets(labels.ndim - 1), backend="higra")
    loss(affinities, labels).backward()


def compare_sizes(sizes: list[tuple[int, ...]], repeats: int) -> list[dict]:
    """Time the counts, the loss and the two plain calls over sizes, ~100 labels."""
    rows = []
    for shape in sizes:
        affinities, labels = make_case(shape, 100)
        batch = torch.from_numpy(affinities[None]).requires_grad_(), torch.from_numpy(labels[None])
        runs = repeats if labels.size > 300_000 else 3 * repeats
        graph, weights = plain_graph(affinities, labels)
        plain = least_time(partial(plain_calls, graph, weights), runs)
        raw = gather_edges(1 - affinities, check_offsets(nearest_offsets(labels.ndim)))
        unaltered = least_time(partial(plain_calls, graph, [raw, raw]), runs)
        count = partial(pair_counts, affinities, labels, nearest_offsets(labels.ndim))
        counts = least_time(partial(count, backend="higra"), runs)
        rows.append(
            {
                "shape": shape,
                "edges": count_edges(shape),
                "two_bpt_canonical_s": plain,
                "two_bpt_canonical_of_unaltered_affinities_s": unaltered,
                "pair_counts_s": counts,
                "pair_counts_parallel_s": least_time(partial(count, backend="parallel"), runs),
                "loss_and_gradient_s": least_time(partial(loss_and_gradient, *batch), runs),
                "ratio": counts / plain,
                "phases_s": phases(affinities, labels),
            }
        )
        print(f"{shape}: {counts:.4f} s, {counts / plain:.2f} of two bpt_canonical calls")
    return rows


def count_edges(shape: tuple[int, ...]) -> int:
    """Count the edges of the nearest neighbourhood."""
    n_voxels = int(np.prod(shape))
    return sum(n_voxels - n_voxels // size for size in shape)


def phases(affinities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Time the steps of the constrained counts one by one; the rest is counting."""
    offsets = check_offsets(nearest_offsets(labels.ndim))
    clock = [time.perf_counter()]
    inner = gather_edges(affinities_from_labels(labels, offsets), offsets).astype(bool)
    values = gather_edges(affinities, offsets)
    sources, targets = grid_edges(labels.shape, offsets)
    clock.append(time.perf_counter())
    order = merge_order(values, ~inner)
    clock.append(time.perf_counter())
    hg.bpt_canonical(
        (sources, targets, labels.size),
        sorted_edge_indices=order,
        return_altitudes=False,
        compute_mst=False,
    )
    clock.append(time.perf_counter())
    return dict(zip(("edges", "sort", "tree"), np.diff(clock).tolist(), strict=True))


def compare_label_numbers(shape: tuple[int, ...], repeats: int) -> list[dict]:
    """Time the counts over numbers of labels, constrained and not, and the plain form's table."""
    rows = []
    for n_labels in LABEL_NUMBERS:
        affinities, labels = make_case(shape, n_labels)
        offsets = nearest_offsets(len(shape))
        count = partial(pair_counts, affinities, labels, offsets, backend="higra")
        row = {
            "shape": shape,
            "labels": len(np.unique(labels)),
            "constrained_s": least_time(count, repeats),
            "unconstrained_s": least_time(partial(count, constrained=False), repeats),
        }
        if 2 * labels.size * n_labels * 8 < PLAIN_TABLE_BYTES:
            row["plain_form_s"] = least_time(partial(plain_counts, affinities, labels), 1)
        rows.append(row)
        print(row)
    return rows


def measure_memory(shape: tuple[int, ...]) -> list[dict]:
    """Measure by how much fresh processes grow at their peak when they count once."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        affinities, labels = make_case(shape, 100)
        np.savez(path, affinities=affinities, labels=labels)
        for kind in ("constrained", "unconstrained", "masked"):
            command = [sys.executable, "-m", "benchmarks.loss", "--peak", kind, str(path)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            peak = int(run.stdout) / count_edges(shape)
            rows.append({"shape": shape, "kind": kind, "bytes_per_edge": peak})
            print(rows[-1])
    return rows


def peak_of_one_count(kind: str, path: str) -> int:
    """Count once and return how many bytes the process grew at its peak."""
    case = np.load(path)
    affinities, labels = case["affinities"], case["labels"]
    known = np.ones(affinities.shape, dtype=bool)
    known.ravel()[::20] = False
    before = memory_of_process()["VmRSS"]
    pair_counts(
        affinities,
        labels,
        nearest_offsets(labels.ndim),
        constrained=kind != "unconstrained",
        edge_mask=known if kind == "masked" else None,
        backend="higra",
    )
    return memory_of_process()["VmHWM"] - before


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only, write nothing")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each time (default 3)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_of_one_count(*arguments.peak))
        return
    if arguments.device == "cuda":
        from benchmarks.parallel_loss import measure

        measure("cuda", arguments.quick)
        return
    torch.set_num_threads(1)
    quick = arguments.quick
    sizes = [shape for shape in SIZES if not quick or np.prod(shape) < 1e5]
    results = {
        "seed": SEED,
        "threads": 1,
        "sizes": compare_sizes(sizes, arguments.repeats),
        "labels": compare_label_numbers((32,) * 3 if quick else (64,) * 3, arguments.repeats),
        "memory": measure_memory((48,) * 3 if quick else (128,) * 3),
    }
    if not quick:
        print(f"written to {write_results('benchmark_loss', results)}")


if __name__ == "__main__":
    main()
