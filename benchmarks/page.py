"""Write ``benchmarks/README.md`` from the measured results: ``python -m benchmarks.page``."""

import json
from pathlib import Path
from typing import Any

from report.record import RESULTS

PAGE = Path(__file__).parent / "README.md"
TEXT = """# How fast it is

This page is written by `python -m benchmarks.page` from the files in `report/results`; each names
its machine, versions and date. Compare ratios rather than seconds: both times of a ratio come from
one process.

## Pair counts and loss

`python -m benchmarks.loss` ({processor}, one thread, {date}).

The yardstick is the plain way to build the trees of the two passes: two calls of
`hg.bpt_canonical` on a graph object, and nothing is counted. Our times include everything from
affinities and labels to counts. All are CPU times; the forms run in turns, and the shortest of
several runs is given. "Higra" is the sequential path, "Numba" the same in compiled loops
(`malis.compiled`; needs the extra `fast`), and "tensors" the data-parallel form of
`malis.tensor_backend` on the same thread. The last column divides by two calls on unaltered
affinities, which have fewer ties than those of the passes.

{sizes}

On a CPU, `backend="auto"` takes Numba where it is installed. Otherwise it takes the tensors for
constrained counts without masks if samples have at least 2^19 voxels, or if there are at least 16
samples of at most 2^11 voxels, and Higra in all other cases. On a GPU it takes the tensors.

The first count of a process also loads Numba and the compiled loops. This takes {cached} s of
wall-clock time, and {compiled} s if they have not been compiled yet (once per user and version).

Losses with their gradients; the README's sum is cross-entropy plus MALIS in windows of 32 x 32:

{losses}

![Time over edges and over labels](../report/figures/cost.png)

The number of labels does not matter, because no table of labels is made ({labels_shape} voxels):

{labels}

Peak memory of a process that counts at {memory_shape} voxels, beyond what it held before: Higra
{memory}; Numba {memory_numba}.

**Where the time goes** at {phases_shape}, Higra path: {phases}. The tree is Higra's union-find, one
random access after another, so memory latency bounds it. What was saved on the way: one tree
instead of two; a radix sort over 16-bit halves instead of a comparison sort; no graph object and no
spanning-tree graph; sums of sizes instead of a table of nodes times labels; maxima over ranges of a
line instead of lowest common ancestors.

## Tensor operations

{gpu}

On one CPU thread, with real labels (FIB-25 crop; `report/results/benchmark_parallel_cpu.json`),
compared with the two calls: {parallel}.

## Block by block

`python -m benchmarks.blockwise --only bookkeeping` ({blocks_processor}, {blocks_date}):
planning and halos of all {steps} steps of a run whose blocks read and write nothing, without Dask.
"Resumed" is the same call once more, when the file of every block is there. Times are CPU times;
`report/results/benchmark_blockwise.json` has wall-clock times and the load of the machine.

{blocks}

## Scores and segmentation

[EVALUATION.md](EVALUATION.md): VOI and Rand error compared with scikit-image.
`python -m benchmarks.segmentation`: fragments and agglomeration compared with waterz.
`python -m benchmarks.segmentation_quality`: how good the segmentations are, compared with waterz
(in the [report](../Report.pdf)).
"""

NO_GPU = """`python -m benchmarks.parallel_loss --device cuda` measures `malis.tensor_backend` on a
GPU, checks that it equals the CPU, and writes `report/results/benchmark_parallel_cuda.json`. No GPU
was at hand when this page was written, so its times are missing."""
GPU = """`python -m benchmarks.parallel_loss --device cuda` ({device}, {date}): constrained loss and
gradient. A floor is a number of bytes over the bandwidth of a large copy: the bytes that all
operations move, or those of the loss's input and output alone."""


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """Write a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Write a time in ms, with about three digits."""
    return f"{1000 * seconds:.3g}" if seconds < 0.1 else f"{1000 * seconds:,.0f}"


def shape_of(row: dict[str, Any]) -> str:
    """Write a shape as 128 x 128, without a batch of one."""
    return " x ".join(str(size) for size in row["shape"] if size > 1)


def main() -> None:
    """Write the page."""
    loss = json.loads((RESULTS / "benchmark_loss.json").read_text())
    parallel = json.loads((RESULTS / "benchmark_parallel_cpu.json").read_text())
    blockwise = json.loads((RESULTS / "benchmark_blockwise.json").read_text())
    cuda = RESULTS / "benchmark_parallel_cuda.json"
    sizes = [
        [
            shape_of(row),
            milliseconds(row["two_bpt_canonical_s"]),
            milliseconds(row["pair_counts_s"]),
            milliseconds(row["pair_counts_parallel_s"]),
            milliseconds(numba),
            f"{row['ratio']:.2f}",
            f"{row['ratio_numba']:.3f}",
            f"{numba / row['two_bpt_canonical_of_unaltered_affinities_s']:.3f}",
        ]
        for row in loss["sizes"]
        for numba in [row["pair_counts_numba_s"]]
    ]
    losses = [
        [row["loss"], shape_of(row)]
        + [milliseconds(row[f"{backend}_s"]) for backend in ("higra", "parallel", "numba")]
        for row in loss["losses"]
    ]
    labels = [
        [row["labels"]]
        + [
            milliseconds(row[f"{kind}_s"])
            for kind in (
                *("constrained", "constrained_numba"),
                *("unconstrained", "unconstrained_numba"),
            )
        ]
        + [milliseconds(row["plain_form_s"]) if "plain_form_s" in row else "table too large"]
        for row in loss["labels"]
    ]
    largest = max(loss["sizes"], key=lambda row: row["edges"])
    phases = {**largest["phases_s"]}
    phases["counting"] = max(0.0, largest["pair_counts_s"] - sum(phases.values()))
    PAGE.write_text(
        TEXT.format(
            processor=loss["environment"]["processor"],
            date=loss["environment"]["date"][:10],
            sizes=table(
                [
                    "voxels",
                    "two `bpt_canonical` (ms)",
                    "counts, Higra (ms)",
                    "counts, tensors (ms)",
                    "counts, Numba (ms)",
                    "Higra : two calls",
                    "Numba : two calls",
                    "Numba : two calls, affinities unaltered",
                ],
                sizes,
            ),
            labels_shape=shape_of(loss["labels"][0]),
            labels=table(
                [
                    "labels",
                    "constrained, Higra (ms)",
                    "Numba (ms)",
                    "unconstrained, Higra (ms)",
                    "Numba (ms)",
                    "plain form, with table (ms)",
                ],
                labels,
            ),
            memory_shape=shape_of(loss["memory"][0]),
            memory=memory_text(loss["memory"]),
            memory_numba=memory_text(loss["memory_numba"]),
            losses=table(["loss", "batch", "Higra (ms)", "tensors (ms)", "Numba (ms)"], losses),
            cached=f"{loss['compilation']['cached_s']:.2g}",
            compiled=f"{loss['compilation']['first_s']:.2g}",
            phases_shape=shape_of(largest),
            phases=", ".join(f"{name} {milliseconds(s)} ms" for name, s in phases.items()),
            blocks_processor=blockwise["environment"]["processor"],
            blocks_date=blockwise["environment"]["date"][:10],
            steps=blockwise["bookkeeping"]["steps"],
            blocks=table(
                ["blocks", "new run (s)", "resumed (s)", "new run, per block (µs)"],
                [
                    [
                        f"{row['blocks']:,}",
                        f"{row['new_cpu_seconds']:.2f}",
                        f"{row['complete_cpu_seconds']:.2f}",
                        f"{1e6 * row['new_cpu_seconds'] / row['blocks']:.0f}",
                    ]
                    for row in blockwise["bookkeeping"]["rows"]
                ],
            ),
            gpu=gpu_text(json.loads(cuda.read_text())) if cuda.exists() else NO_GPU,
            parallel=parallel_text(parallel),
        )
    )
    print(PAGE)


def memory_text(rows: list[dict[str, Any]]) -> str:
    """List bytes per edge."""
    return (
        ", ".join(f"{row['kind']} {row['bytes_per_edge']:.0f}" for row in rows) + " bytes per edge"
    )


def gpu_text(results: dict[str, Any]) -> str:
    """Tabulate the times on a GPU, beside what bounds them."""
    rows = [
        [
            shape_of(case),
            milliseconds(case["loss_and_gradient"]["median_s"]),
            milliseconds(case["floor_all_operations_s"]),
            milliseconds(case["floor_inputs_and_gradient_s"]),
            case["operations"],
            case["waits"],
        ]
        for case in results["cases"]
    ]
    columns = ["voxels", "time (ms)", "floor of the operations (ms)", "floor of the loss (ms)"]
    columns += ["launches", "waits"]
    environment = results["environment"]
    text = GPU.format(device=environment["device"], date=environment["date"][:10])
    return f"{text}\n\n{table(columns, rows)}"


def parallel_text(results: dict[str, Any]) -> str:
    """Say how many times as fast as two plain calls the tensor form is, and its peak memory."""
    times = [
        f"{shape_of(case)} voxels {case['times_as_fast']:.1f} times as fast"
        for case in results["cases"]
        if case["source"] == "FIB-25"
    ]
    bytes_per_edge = results["memory"]["constrained_bytes_per_edge"]
    return f"{'; '.join(times)}; peak memory {bytes_per_edge:.0f} bytes per edge"


if __name__ == "__main__":
    main()
