"""The loss as tensor operations: how fast it is on a device, and what bounds it.

    python -m benchmarks.parallel_loss                  a CPU thread, benchmark_parallel_cpu.json
    python -m benchmarks.parallel_loss --device cuda    a GPU, benchmark_parallel_cuda.json
    python -m benchmarks.parallel_loss --quick          small sizes, writes nothing

First the counts of every case are compared with those of Higra, and repeated runs with each other.
Then the constrained loss with its gradient is timed, and with the counts step by step: on a GPU by
CUDA events. Beside each time stand two floors, bytes over the bandwidth of a large copy measured in
the same run: of reading affinities and labels and writing the gradient once, and of all bytes that
the tensor operations read and write. A U-Net's training step is timed with the loss and without.

On the CPU the yardstick are two calls of ``hg.bpt_canonical``, see `benchmarks.cases`.
"""

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

import malis.tensor_backend.counts
from benchmarks.cases import (
    SEED,
    count_edges,
    make_batch,
    measure_memory,
    plain_calls,
    plain_graph,
)
from benchmarks.clock import Clock, Traffic, in_turns, measure_bandwidth, summary
from malis import MalisLoss, nearest_offsets, pair_counts
from report.record import write_results
from unet import UNet

STEPS = ("grid_forest", "list_forest", "kruskal_merges", "pair_products", "vertex_line")
STEPS += ("weakest_links",)
CPU_SHAPES = [(1, 64, 64, 64), (1, 96, 96, 96), (1, 128, 128, 128), (1, 1024, 1024)]
CUDA_SHAPES = [(1, 64, 64, 64), (1, 128, 128, 128), (16, 164, 164), (4, 64, 64, 64)]
QUICK_SHAPES = [(1, 24, 24, 24), (3, 40, 40)]
LARGE = (1, 128, 128, 128)


def check_counts(affinities: Tensor, labels: Tensor, device: str) -> None:
    """Raise unless all forms of the counts equal Higra's, and repeated runs each other.

    Parameters
    ----------
    affinities : (B, C, *spatial) tensor
    labels : (B, *spatial) tensor
    device : str
    """
    generator = torch.Generator().manual_seed(SEED)
    known = torch.rand(affinities.shape, generator=generator) < 0.95
    offsets = nearest_offsets(labels.ndim - 1)
    for options in ({}, {"constrained": False}, {"edge_mask": known}):
        expected = pair_counts(affinities, labels, offsets, backend="higra", **options)
        for _ in range(3):
            found = pair_counts(
                affinities.to(device), labels.to(device), offsets, backend="parallel", **options
            )
            for ours, theirs in zip(found, expected, strict=True):
                if not torch.equal(ours.cpu(), theirs):
                    raise AssertionError(f"counts differ from Higra's: {options.keys()}")


def step_times(count: Callable[[], object], clock: Clock) -> dict[str, float]:
    """Time the steps of the parallel counts within one run; "rest" are labels, lists and output."""
    marks: list[tuple] = []

    def timed(name: str) -> Callable:
        function = getattr(malis.tensor_backend.counts, name)

        def run(*arguments: object) -> object:
            start = clock.mark()
            result = function(*arguments)
            marks.append((name, start, clock.mark()))
            return result

        return run

    count()
    with contextlib.ExitStack() as stack:
        for name in STEPS:
            stack.enter_context(patch.object(malis.tensor_backend.counts, name, timed(name)))
        start = clock.mark()
        count()
        stop = clock.mark()
    if clock.on_gpu:
        torch.cuda.synchronize()
    steps = Counter()
    for name, *pair in marks:
        steps[name] += clock.between(*pair)
    return {**steps, "rest": clock.between(start, stop) - sum(steps.values())}


def measure_case(
    shape: tuple[int, ...], device: str, repeats: int, bandwidth: float
) -> dict[str, object]:
    """Check and time one batch on a device."""
    source, affinities, labels = make_batch(shape)
    once = 2 * affinities.numel() * affinities.element_size() + labels.numel() * 8
    row = {
        "shape": shape,
        "source": source,
        "labels": len(labels.unique()),
        "edges": shape[0] * count_edges(shape[1:]),
        "floor_inputs_and_gradient_s": once / bandwidth,
    }
    row |= measure_form(affinities, labels, device, repeats, bandwidth)
    median = row["loss_and_gradient"]["median_s"]
    print(f"{shape} on {device}: {median:.4f} s with gradient")
    if device == "cpu":
        row |= compare_with_higra(affinities, labels, repeats)
    return row


def measure_form(
    affinities: Tensor, labels: Tensor, device: str, repeats: int, bandwidth: float
) -> dict[str, object]:
    """Check and time one batch in one form: the loss, its counts, their steps and floor."""
    check_counts(affinities, labels, device)
    offsets = nearest_offsets(labels.ndim - 1)
    loss = MalisLoss(offsets, backend="parallel")
    values = affinities.clone().to(device).requires_grad_()
    labels = labels.to(device)
    clock = Clock(device)

    def loss_and_gradient() -> None:
        values.grad = None
        loss(values, labels).backward()

    count = partial(pair_counts, values.detach(), labels, offsets, backend="parallel")
    with Traffic() as traffic:
        count()
    figures = {
        "loss_and_gradient": summary(clock.times(loss_and_gradient, repeats)),
        "counts": summary(clock.times(count, repeats)),
        "counts_unconstrained": summary(clock.times(partial(count, constrained=False), repeats)),
        "steps_s": step_times(count, clock),
        "operations": traffic.operations,
        "waits": traffic.waits,
        "floor_all_operations_s": traffic.bytes / bandwidth,
    }
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        count()
        peak = torch.cuda.max_memory_allocated() - before
        figures["bytes_per_edge"] = peak / (len(labels) * count_edges(labels.shape[1:]))
        half = values.detach().to(torch.bfloat16).requires_grad_()
        figures["loss_and_gradient_bfloat16"] = summary(
            clock.times(lambda: loss(half, labels).backward(), repeats)
        )
    return figures


def compare_with_higra(affinities: Tensor, labels: Tensor, repeats: int) -> dict[str, object]:
    """Time two calls of ``hg.bpt_canonical``, and the counts by Higra and by tensor operations."""
    offsets = nearest_offsets(labels.ndim - 1)
    counts = partial(pair_counts, affinities, labels, offsets)
    graphs = [plain_graph(*pair) for pair in zip(affinities.numpy(), labels.numpy(), strict=True)]

    def two_calls() -> None:
        for graph, weights in graphs:
            plain_calls(graph, weights)

    works = {
        "two_bpt_canonical_s": two_calls,
        "higra_counts_s": partial(counts, backend="higra"),
        "parallel_counts_s": partial(counts, backend="parallel"),
        "higra_counts_unconstrained_s": partial(counts, backend="higra", constrained=False),
        "parallel_counts_unconstrained_s": partial(counts, backend="parallel", constrained=False),
    }
    least = {name: min(times) for name, times in in_turns(works, repeats).items()}
    return {**least, "times_as_fast": least["two_bpt_canonical_s"] / least["parallel_counts_s"]}


def measure_training(patch_size: int, depth: int, wf: int, device: str, repeats: int) -> dict:
    """Time a 3D U-Net's training step with the loss, and with the plain mean in its place."""
    _, _, labels = make_batch((1, *(patch_size,) * 3))
    torch.manual_seed(SEED)
    network = UNet(1, 3, depth, wf, padding=True, ndim=3).to(device)
    optimiser = torch.optim.Adam(network.parameters())
    raw = torch.rand(1, 1, *(patch_size,) * 3, device=device)
    labels = labels.to(device)
    malis_loss = MalisLoss(nearest_offsets(3), backend="parallel")

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        optimiser.zero_grad()
        loss(network(raw).sigmoid(), labels).backward()
        optimiser.step()

    clock = Clock(device)
    plain = summary(clock.times(partial(step, lambda affinities, _: affinities.mean()), repeats))
    whole = summary(clock.times(partial(step, malis_loss), repeats))
    return {
        "patch": (patch_size,) * 3,
        "network": {
            "depth": depth,
            "wf": wf,
            "precision": "float32, convolutions as torch's default",
        },
        "without_loss": plain,
        "with_loss": whole,
        "share_of_loss": 1 - plain["median_s"] / whole["median_s"],
    }


def measure(device: str, quick: bool = False, repeats: int | None = None) -> dict[str, object]:
    """Measure all of it on a device.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    quick : bool
        Small sizes, and nothing is written.
    repeats : int, optional
        Runs of each time; 3 on the CPU and 20 on a GPU by default.

    Returns
    -------
    dict
        What ``report/results/benchmark_parallel_<device>.json`` holds.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available here")
    if device == "cpu":
        torch.set_num_threads(1)
    repeats = repeats or (20 if device == "cuda" else 3)
    shapes = QUICK_SHAPES if quick else CUDA_SHAPES if device == "cuda" else CPU_SHAPES
    bandwidth = measure_bandwidth(device)
    results = {
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "copy_bytes_per_s": bandwidth,
        "cases": [measure_case(shape, device, repeats, bandwidth) for shape in shapes],
    }
    if device == "cuda":
        networks = [(64, 4, 5), (64, 4, 6), (128, 4, 5), (128, 4, 6)]
        results["training"] = [
            measure_training(*network, device, repeats)
            for network in ([(16, 2, 2)] if quick else networks)
        ]
    else:
        shape = QUICK_SHAPES[0] if quick else LARGE
        _, affinities, labels = make_batch(shape)
        grown = measure_memory(affinities.numpy(), labels.numpy(), "parallel")
        results["memory"] = {
            "shape": shape,
            **{f"{kind}_bytes_per_edge": size for kind, size in grown.items()},
        }
    if not quick:
        path = write_results(f"benchmark_parallel_{device}", results, device=device)
        print(f"written to {path}")
    return results


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes only, write nothing")
    parser.add_argument("--repeats", type=int, help="runs of each time")
    arguments = parser.parse_args()
    measure(arguments.device, arguments.quick, arguments.repeats)


if __name__ == "__main__":
    main()
