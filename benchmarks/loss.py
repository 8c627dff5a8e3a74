"""How long the pair counts take on a CPU: by every backend, over sizes, over numbers of labels.

    python -m benchmarks.loss            all of it; writes report/results/benchmark_loss.json
    python -m benchmarks.loss --quick    small sizes only, writes nothing

The yardstick, two calls of ``hg.bpt_canonical``, is that of `benchmarks.cases`; beside it stand two
calls on the affinities as they are (fewer ties, more time). "pair_counts" is Higra's path,
"parallel" the tensor form, "numba" the compiled loops. Times are the CPU time of
one thread, the least of several runs; what is compared runs in turns. `benchmarks.parallel_loss`
looks into the tensor form, and measures it on a GPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from os import environ

import higra as hg
import numpy as np
import torch

from benchmarks.cases import (
    SEED,
    count_edges,
    make_case,
    measure_memory,
    plain_calls,
    plain_graph,
)
from benchmarks.clock import in_turns
from malis import (
    AffinityCrossEntropy,
    MalisLoss,
    MaximinLoss,
    SumLoss,
    WindowLoss,
    nearest_offsets,
    pair_counts,
)
from malis._checks import check_offsets
from malis.affinity import affinities_from_labels, gather_edges, grid_edges
from malis.maximin import merge_order
from report.record import write_results

COLUMNS = {"pair_counts": "higra", "pair_counts_parallel": "parallel"}
COLUMNS |= {"pair_counts_numba": "numba"}
SIZES = [(64, 64), (164, 164), (256, 256), (512, 512), (1024, 1024)]
SIZES += [(32,) * 3, (48,) * 3, (64,) * 3, (96,) * 3, (128,) * 3]
LABEL_NUMBERS = [5, 50, 500, 5000]
PLAIN_TABLE_BYTES = 1e9  # the plain form is left out where its table would be larger


def compare_sizes(sizes: list[tuple[int, ...]], repeats: int) -> list[dict]:
    """Time the counts, the loss and the two plain calls over sizes, ~100 labels."""
    rows = []
    for shape in sizes:
        offsets = nearest_offsets(len(shape))
        affinities, labels = make_case(shape, 100)
        graph, weights = plain_graph(affinities, labels)
        raw = gather_edges(1 - affinities, check_offsets(offsets))
        batch = torch.from_numpy(affinities[None]).requires_grad_(), torch.from_numpy(labels[None])
        works = {
            "two_bpt_canonical": partial(plain_calls, graph, weights),
            "two_bpt_canonical_of_unaltered_affinities": partial(plain_calls, graph, [raw, raw]),
            "loss_and_gradient": partial(gradient, MalisLoss(offsets, backend="higra"), batch),
            "loss_and_gradient_numba": partial(
                gradient, MalisLoss(offsets, backend="numba"), batch
            ),
        }
        for name, backend in COLUMNS.items():
            works[name] = partial(pair_counts, affinities, labels, offsets, backend=backend)
        times = in_turns(works, repeats if labels.size > 300_000 else 3 * repeats)
        row = {"shape": shape, "edges": count_edges(shape)}
        row |= {f"{name}_s": min(seconds) for name, seconds in times.items()}
        row["ratio"] = row["pair_counts_s"] / row["two_bpt_canonical_s"]
        row["ratio_numba"] = row["pair_counts_numba_s"] / row["two_bpt_canonical_s"]
        medians = [np.median(times[name]) for name in ("pair_counts_numba", "two_bpt_canonical")]
        row["ratio_numba_of_medians"] = medians[0] / medians[1]
        steps = [phases(affinities, labels) for _ in range(repeats)]
        row["phases_s"] = {name: min(step[name] for step in steps) for name in steps[0]}
        rows.append(row)
        print(f"{shape}: {row['ratio']:.2f} of two bpt_canonical calls, {row['ratio_numba']:.3f}")
    return rows


def gradient(loss: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Compute a loss and its gradient."""
    loss(*batch).backward()


def compare_losses(quick: bool, repeats: int) -> list[dict]:
    """Time losses with their gradients, by every backend: that of the README, and both of MALIS."""
    rows = []
    makes = {
        "the README's sum": lambda offsets, backend: SumLoss(
            [
                WindowLoss(MalisLoss(offsets, backend=backend), 32),
                AffinityCrossEntropy(offsets),
            ],
            weights=[0.3, 1.0],
        ),
        "MalisLoss": lambda offsets, backend: MalisLoss(offsets, backend=backend),
        "MaximinLoss": lambda offsets, backend: MaximinLoss(offsets, backend=backend),
    }
    for name, n_samples, shape in (
        ("the README's sum", 4, (128, 128)),
        ("MalisLoss", 1, (16,) * 3 if quick else (64,) * 3),
        ("MaximinLoss", 1, (16,) * 3 if quick else (64,) * 3),
    ):
        cases = [make_case(shape, 100)] * n_samples
        affinities, labels = (
            torch.from_numpy(np.stack(parts)) for parts in zip(*cases, strict=True)
        )
        batch, offsets = (affinities.requires_grad_(), labels), nearest_offsets(len(shape))
        works = {
            backend: partial(gradient, makes[name](offsets, backend), batch)
            for backend in COLUMNS.values()
        }
        times = in_turns(works, 3 * repeats)
        least = {f"{backend}_s": min(seconds) for backend, seconds in times.items()}
        rows.append({"loss": name, "shape": (n_samples, *shape), **least})
        print(rows[-1])
    return rows


def measure_compilation() -> dict[str, float]:
    """Time the first count of a process: where nothing has been compiled yet, and afterwards."""
    script = "import time, numpy, malis; labels = numpy.ones((4, 4), int); "
    script += "affinities = numpy.full((2, 4, 4), 0.5, 'f4'); start = time.perf_counter(); "
    script += "malis.pair_counts(affinities, labels, [(-1, 0), (0, -1)], backend='numba'); "
    script += "print(time.perf_counter() - start)"
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            run = subprocess.run(
                [sys.executable, "-c", script],
                env={**environ, "NUMBA_CACHE_DIR": folder},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds.append(float(run.stdout))
    return {"first_s": seconds[0], "cached_s": seconds[1]}


def compare_label_numbers(shape: tuple[int, ...], repeats: int) -> list[dict]:
    """Time the counts over numbers of labels, constrained and not, and the plain form's table."""
    rows = []
    for n_labels in LABEL_NUMBERS:
        affinities, labels = make_case(shape, n_labels)
        offsets = nearest_offsets(len(shape))
        works = {}
        for suffix, backend in (("", "higra"), ("_numba", "numba")):
            count = partial(pair_counts, affinities, labels, offsets, backend=backend)
            works["constrained" + suffix] = count
            works["unconstrained" + suffix] = partial(count, constrained=False)
        times = in_turns(works, repeats)
        row = {"shape": shape, "labels": len(np.unique(labels))}
        row |= {f"{name}_s": min(seconds) for name, seconds in times.items()}
        if 2 * labels.size * n_labels * 8 < PLAIN_TABLE_BYTES:
            start = time.process_time()
            plain_counts(affinities, labels)
            row["plain_form_s"] = time.process_time() - start
        rows.append(row)
        print(row)
    return rows


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


def phases(affinities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Time the steps of the constrained counts one by one; the rest is counting."""
    offsets = check_offsets(nearest_offsets(labels.ndim))
    clock = [time.process_time()]
    inner = gather_edges(affinities_from_labels(labels, offsets), offsets).astype(bool)
    values = gather_edges(affinities, offsets)
    sources, targets = grid_edges(labels.shape, offsets)
    clock.append(time.process_time())
    order = merge_order(values, ~inner)
    clock.append(time.process_time())
    hg.bpt_canonical(
        (sources, targets, labels.size),
        sorted_edge_indices=order,
        return_altitudes=False,
        compute_mst=False,
    )
    clock.append(time.process_time())
    return dict(zip(("edges", "sort", "tree"), np.diff(clock).tolist(), strict=True))


def memory_rows(shape: tuple[int, ...], backend: str) -> list[dict]:
    """Measure the memory of every kind of count."""
    grown = measure_memory(*(array[None] for array in make_case(shape, 100)), backend)
    return [{"shape": shape, "kind": kind, "bytes_per_edge": size} for kind, size in grown.items()]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only, write nothing")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each time (default 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quick = arguments.quick
    sizes = [shape for shape in SIZES if not quick or np.prod(shape) < 1e5]
    large = (48,) * 3 if quick else (128,) * 3
    results = {
        "seed": SEED,
        "threads": 1,
        "compilation": measure_compilation(),
        "sizes": compare_sizes(sizes, arguments.repeats),
        "losses": compare_losses(quick, arguments.repeats),
        "labels": compare_label_numbers((32,) * 3 if quick else (64,) * 3, arguments.repeats),
        "memory": memory_rows(large, "higra"),
        "memory_numba": memory_rows(large, "numba"),
    }
    if not quick:
        print(f"written to {write_results('benchmark_loss', results)}")


if __name__ == "__main__":
    main()
