"""How long segmentation takes and how much memory it needs, over sizes, beside waterz.

    python -m benchmarks.segmentation --waterz-python waterz/bin/python
    python -m benchmarks.segmentation --quick             small sizes, writes nothing

Voronoi cells with derived affinities (`benchmarks.derived_affinities`). Sections: fragments, and
the whole hierarchy by mean linkage. Blocks: region graph and whole hierarchy of given fragments, by
every linkage, and by the mean with a cut, which is what waterz gives: it gets the same affinities
and fragments and works for one threshold. Every measurement has a process of its own on one thread,
ours and waterz' by turns; times are the least of several; memory is the peak of the process,
affinities and fragments included, less the interpreter and its modules. waterz' compilation is not
counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.derived_affinities import derive_affinities
from benchmarks.segmentation_quality import (
    LINKAGES,
    NOISY_THRESHOLD,
    RUNNER,
    WATERZ_FUNCTIONS,
    waterz_version,
)
from benchmarks.waterz_runner import memory_bytes
from malis import nearest_offsets
from malis.segmentation import agglomerate, best_threshold, fragments
from report.record import write_results

SECTIONS = [(256, 256), (512, 512), (1250, 1250), (2048, 2048)]
BLOCKS = [(16, 256, 256), (32, 256, 256), (32, 512, 512), (64, 512, 512)]
VOXELS_PER_CELL = {2: 1000, 3: 20_000}
THRESHOLD = 0.5
SEED = 0


def make_case(folder: Path, shape: tuple[int, ...]) -> None:
    """Write affinities, fragments and labels of Voronoi cells."""
    rng = np.random.default_rng(SEED)
    ndim = len(shape)
    centres = rng.random((int(np.prod(shape)) // VOXELS_PER_CELL[ndim], ndim)) * shape
    voxels = np.stack(np.indices(shape, dtype=np.float32), axis=-1).reshape(-1, ndim)
    labels = cKDTree(centres).query(voxels)[1].reshape(shape) + 1
    affinities = derive_affinities(labels, nearest_offsets(ndim), rng)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "affinities.npy", affinities)
    np.save(
        folder / "fragments.npy",
        fragments(affinities, nearest_offsets(ndim), threshold=NOISY_THRESHOLD),
    )


def measure(folder: Path, task: str, repeats: int) -> dict[str, Any]:
    """Do a task several times, in this process; return the seconds and the peak memory."""
    start_bytes = memory_bytes()
    affinities = np.load(folder / "affinities.npy")
    offsets = nearest_offsets(affinities.ndim - 1)
    pieces = np.load(folder / "fragments.npy")
    tasks: dict[str, Callable[[], object]] = {
        "fragments": lambda: fragments(affinities, offsets, threshold=NOISY_THRESHOLD),
        "fragments_and_mean": lambda: agglomerate(
            affinities, offsets, fragments(affinities, offsets, threshold=NOISY_THRESHOLD)
        ),
    }
    for name, settings in LINKAGES.items():
        tasks[name] = lambda settings=settings: agglomerate(affinities, offsets, pieces, **settings)
    tasks["mean_and_cut"] = lambda: agglomerate(affinities, offsets, pieces).cut(THRESHOLD)
    if task == "best_threshold":
        hierarchy = agglomerate(affinities, offsets, pieces)
        truth = np.load(folder / "labels.npy")
        tasks[task] = lambda: best_threshold(hierarchy, truth)
    if task == "cut":
        hierarchy = agglomerate(affinities, offsets, pieces)
        tasks[task] = lambda: hierarchy.cut(THRESHOLD)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        tasks[task]()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "memory_bytes": memory_bytes(peak=True) - start_bytes}


def measure_ours(folder: Path, task: str, repeats: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.segmentation", "--measure", folder, task, repeats]
    run = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def measure_waterz(python: str, folder: Path, function: str, repeats: int) -> dict[str, Any]:
    """Measure waterz in a process of its own."""
    source, target = folder / "in.npz", folder / "out.npz"
    np.savez(
        source,
        affinities=np.load(folder / "affinities.npy"),
        fragments=np.load(folder / "fragments.npy"),
        thresholds=[THRESHOLD],
        functions=[function],
        repeats=repeats,
    )
    subprocess.run([python, "-P", RUNNER, source, target], check=True)
    with np.load(target) as results:
        return {
            "seconds": results[f"{function}_seconds"].tolist(),
            "memory_bytes": int(results["memory_bytes"]),
        }


def by_turns(measurements: dict[str, Callable[[], dict]], rounds: int) -> dict[str, dict]:
    """Repeat measurements one after the other, so that a busy machine slows all alike."""
    results: dict[str, dict] = {}
    for _ in range(rounds):
        for name, work in measurements.items():
            new = work()
            old = results.setdefault(name, {"seconds": [], "memory_bytes": 0})
            old["seconds"] += new["seconds"]
            old["memory_bytes"] = max(old["memory_bytes"], new["memory_bytes"])
    for result in results.values():
        result["least_s"] = min(result["seconds"])
    return results


def compare(shape: tuple[int, ...], waterz_python: str | None, rounds: int) -> dict[str, Any]:
    """Measure everything for one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_case(folder, shape)
        n_bytes = np.load(folder / "affinities.npy", mmap_mode="r").nbytes
        n_fragments = int(np.load(folder / "fragments.npy", mmap_mode="r").max())
        tasks = ["fragments", "fragments_and_mean", *LINKAGES, "mean_and_cut", "cut"]
        tasks.append("best_threshold")
        work = {task: lambda t=task: measure_ours(folder, t, 3) for task in tasks}
        if waterz_python and len(shape) == 3:
            for function in WATERZ_FUNCTIONS:
                work[f"waterz_{function}"] = lambda f=function: measure_waterz(
                    waterz_python, folder, f, 3
                )
        results = by_turns(work, rounds)
    for name, result in results.items():
        result["memory_per_affinity_byte"] = result["memory_bytes"] / n_bytes
        theirs = results.get(f"waterz_{name.removesuffix('_and_cut')}")
        if theirs:
            result["times_waterz"] = result["least_s"] / theirs["least_s"]
    row = {"shape": shape, "affinity_bytes": n_bytes, "fragments": n_fragments, "tasks": results}
    print_row(row)
    return row


def print_row(row: dict[str, Any]) -> None:
    """Print one size."""
    print(f"{row['shape']}, {row['fragments']} fragments")
    for name, result in row["tasks"].items():
        ratio = f"{result['times_waterz']:.2f} of waterz" if "times_waterz" in result else ""
        memory = f"{result['memory_per_affinity_byte']:.1f}x affinities"
        print(f"  {name:22} {result['least_s']:8.3f} s  {memory:20} {ratio}", flush=True)


def main() -> None:
    """Measure all sizes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waterz-python", help="a Python that can import waterz")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, task, repeats = arguments.measure
        print(json.dumps(measure(Path(folder), task, int(repeats))))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    version = waterz_version(arguments.waterz_python)
    python = arguments.waterz_python if version else None
    shapes = [SECTIONS[0], BLOCKS[0]] if arguments.quick else [*SECTIONS, *BLOCKS]
    rows = [compare(shape, python, 1 if arguments.quick else 3) for shape in shapes]
    if not arguments.quick:
        results = {"waterz": version, "threads": 1, "seed": SEED, "threshold": THRESHOLD}
        write_results("benchmark_segmentation", {**results, "sizes": rows})


if __name__ == "__main__":
    main()
