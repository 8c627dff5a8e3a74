"""What blocks cost, and what they change: `malis.scale` against one piece.

    python -m benchmarks.blockwise                        all of it, about half an hour
    python -m benchmarks.blockwise --only equality        or memory, linear, workers, bookkeeping

equality  affinities and segmentation of volumes that fit into memory, by blocks and in one piece,
          over halos
memory    a volume of affinities more than four times as large as the memory limit of a worker;
          fragments, boundaries and labels by workers with that limit
linear    CPU and wall-clock time from raw data to labels over the number of blocks, one worker
workers   wall-clock time of the same run by one worker and by two, in turns, the least of each
bookkeeping  planning and halos of a run whose blocks hold nothing, over their number

A part that is measured replaces its earlier figures in ``report/results/benchmark_blockwise.json``;
the load of the machine while it ran stands beside it.
"""

import argparse
import functools
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.derived_affinities import derive_affinities
from cremi_eval import CremiFile
from cremi_eval.evaluation import voi
from data.locate import find_volume
from malis import nearest_offsets, segment
from malis.inference import predict
from malis.scale import segment_affinities, segment_volume
from malis.scale.blocks import Block, grow, within
from malis.scale.cluster import run_step
from malis.scale.ome_zarr import create_ome_zarr
from malis.scale.output import Output, begin_output
from malis.scale.volumes import open_volume
from malis.training.checkpoint import load_model
from report.record import RESULTS, write_results

MODEL = Path(__file__).resolve().parents[1] / "data" / "models" / "isbi2012.model"
ANISOTROPIC = (40.0, 4.0, 4.0)
SEED = 0


def derived(path: Path, shape: tuple[int, int, int], noise: float = 1.0) -> np.ndarray:
    """Derive affinities from the labels of a volume's corner."""
    with CremiFile(path, "r") as file:
        labels = file.read_neuron_ids().data[tuple(slice(0, n) for n in shape)]
    return derive_affinities(labels, nearest_offsets(3), np.random.default_rng(SEED), noise=noise)


def write_repeated(
    path: Path, values: np.ndarray, shape: tuple[int, ...], block: tuple[int, int, int]
) -> None:
    """Write a volume that repeats a smaller one, mirrored by turns so that nothing is torn."""
    create_ome_zarr(
        path, shape, values.dtype, resolution=ANISOTROPIC, offset=(0, 0, 0), block=block
    )
    array = zarr.open_array(path / "0", mode="r+")
    lead = len(shape) - 3
    step = [block[0]] + [max(b, 512 // b * b) for b in block[1:]]
    for begin in np.ndindex(*(-(-n // s) for n, s in zip(shape[lead:], step, strict=True))):
        box = tuple(
            slice(i * s, min((i + 1) * s, n))
            for i, s, n in zip(begin, step, shape[lead:], strict=True)
        )
        piece = values
        for axis, (side, n) in enumerate(zip(box, values.shape[lead:], strict=True), start=lead):
            index = np.arange(side.start, side.stop) % (2 * n)
            piece = piece.take(np.minimum(index, 2 * n - 1 - index), axis=axis)
        array[(slice(None),) * lead + box] = piece


def compare(labels: np.ndarray, one_piece: np.ndarray) -> dict[str, Any]:
    """Score a segmentation against the one-piece one, in bits."""
    split, merge = voi(labels, one_piece)
    return {"voi": float(split + merge), "segments": int(labels.max())}


def equality(folder: Path) -> dict[str, Any]:
    """Compare blocks with one piece."""
    raw = open_volume(find_volume("synthetic"))
    model = load_model(MODEL)
    report = segment_volume(raw, folder / "out.zarr", MODEL, block=(8, 200, 200), workers=0)
    affinities = predict(model.network, raw[...])
    offsets = [(0, *step) for step in model.offsets]
    one_piece = segment(affinities, offsets, threshold=report["threshold"], sampling=raw.resolution)
    difference = np.abs(open_volume(folder / "out.zarr", "affinities")[...] - affinities).max()
    labels = open_volume(folder / "out.zarr")[...]
    results: dict[str, Any] = {
        "synthetic, 2D network": {
            "shape": raw.shape,
            "block": (8, 200, 200),
            "largest_affinity_difference": float(difference),
            "one_piece_segments": int(one_piece.max()),
            **compare(labels, one_piece),
        }
    }
    cases = {"synthetic": ((24, 512, 512), ANISOTROPIC, (8, 200, 200))}
    try:
        find_volume("fib25_train.hdf")
        cases["fib25_train.hdf"] = ((200, 250, 250), (10.0, 10.0, 10.0), (64, 100, 100))
    except FileNotFoundError as error:
        print(error)
    for file, (shape, resolution, block) in cases.items():
        values, name = derived(find_volume(file), shape), f"{file}, derived affinities"
        one_piece = segment(values, nearest_offsets(3), threshold=0.5, sampling=resolution)
        path = folder / f"{file}.zarr"
        create_ome_zarr(
            path, values.shape, np.float32, resolution=resolution, offset=(0, 0, 0), block=block
        )
        zarr.open_array(path / "0", mode="r+")[...] = values
        results[name] = {
            "shape": values.shape[1:],
            "block": block,
            "one_piece_segments": int(one_piece.max()),
            "halos": {},
        }
        for halo in (8, 16, 32, 80):
            segment_affinities(
                open_volume(path),
                folder / "out.zarr",
                threshold=0.5,
                block=block,
                halo=halo,
                workers=0,
                overwrite=True,
            )
            results[name]["halos"][halo] = compare(open_volume(folder / "out.zarr")[...], one_piece)
    return results


def memory(folder: Path) -> dict[str, Any]:
    """Segment affinities that are more than four times as large as a worker may become."""
    shape, block, limit = (3, 96, 1456, 1456), (32, 128, 128), 600 * 10**6
    values = derived(find_volume("synthetic"), (24, 512, 512), noise=0.5)
    write_repeated(folder / "affinities.zarr", values, shape, block)
    report = measured(
        segment_affinities,
        open_volume(folder / "affinities.zarr"),
        folder / "out.zarr",
        threshold=0.5,
        block=block,
        halo=32,
        workers=2,
        memory_per_worker=limit,
    )
    size = int(np.prod(shape)) * 4
    return {
        "shape": shape,
        "block": block,
        "halo": 32,
        "workers": 2,
        "volume_bytes": size,
        "volume_over_limit": size / limit,
        "segments": int(open_volume(folder / "out.zarr")[...].max()),
        **without_target(report),
    }


def linear(folder: Path) -> dict[str, Any]:
    """Segment volumes of more and more blocks."""
    raw, block, rows = open_volume(find_volume("synthetic"))[...], (8, 128, 128), []
    for n_y, n_x in ((2, 2), (2, 4), (4, 4), (4, 8)):
        shape = (8, 128 * n_y, 128 * n_x)
        write_repeated(folder / f"{n_y}_{n_x}.zarr", raw, shape, block)
        report = measured(
            segment_volume,
            folder / f"{n_y}_{n_x}.zarr",
            folder / "out.zarr",
            MODEL,
            block=block,
            overwrite=True,
        )
        rows.append({"shape": shape, **without_target(report)})
    blocks = np.array([row["n_blocks"] for row in rows])
    seconds = np.array([row["cpu_seconds"] for row in rows])
    slope, start = np.polyfit(blocks, seconds, 1)
    return {
        "block": block,
        "rows": rows,
        "cpu_seconds_per_block": float(slope),
        "cpu_seconds_start": float(start),
        "r_squared": float(np.corrcoef(blocks, seconds)[0, 1] ** 2),
    }


def workers(folder: Path) -> dict[str, Any]:
    """Segment the same volume by one worker and by two."""
    raw, block, shape = open_volume(find_volume("synthetic"))[...], (8, 128, 128), (16, 512, 512)
    write_repeated(folder / "raw.zarr", raw, shape, block)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    cpu_seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for n in seconds:
            report = measured(
                segment_volume,
                folder / "raw.zarr",
                folder / "out.zarr",
                MODEL,
                block=block,
                workers=n,
                overwrite=True,
            )
            seconds[n].append(report["seconds"])
            cpu_seconds[n].append(report["cpu_seconds"])
    return {
        "shape": shape,
        "block": block,
        "n_blocks": report["n_blocks"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "speedup": min(seconds[1]) / min(seconds[2]),
        "remark": "a speedup says something only where as many cores were free: see the load",
    }


def bookkeeping(folder: Path) -> dict[str, Any]:
    """Go through the steps of a run with blocks that read and write nothing, twice."""
    steps, block, rows = (
        ("affinities", "averages", "fragments", "boundaries", "segmentation"),
        64,
        [],
    )
    for n in (10, 22, 48):
        shape, size = (n * block,) * 3, (block,) * 3
        plan = functools.partial(halo_arithmetic, shape)
        row: dict[str, Any] = {"blocks": n**3}
        output = Output(folder / str(n), shape, size)
        with begin_output(output, {}, {}, overwrite=False):
            for name in ("new", "complete"):
                begin, cpu = time.perf_counter(), time.process_time()
                for step in steps:
                    run_step(output, step, plan, progress=False)
                row[f"{name}_seconds"] = time.perf_counter() - begin
                row[f"{name}_cpu_seconds"] = time.process_time() - cpu
                for step, one in itertools.product(steps, output.blocks):
                    output.file_of(step, one).parent.mkdir(parents=True, exist_ok=True)
                    output.file_of(step, one).touch()
        assert not any(map(output.pending, steps))
        rows.append(row)
    return {"steps": len(steps), "rows": rows}


def halo_arithmetic(shape: tuple[int, ...], block: Block) -> None:
    """Plan what a block reads and where in it the block lies."""
    within(block.box, grow(block.box, (8, 8, 8), shape))


def measured(run: Callable[..., dict[str, Any]], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Add to the report of a run what its workers, which have ended, took.

    That is their CPU time from their start and, in bytes, the most memory that any worker of this
    process has had so far.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = run(*arguments, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return report | {"cpu_seconds": cpu, "memory_peak": 1024 * after.ru_maxrss}


def without_target(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out the path, which means nothing elsewhere."""
    return {name: value for name, value in report.items() if name != "target"}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "equality": equality,
    "memory": memory,
    "linear": linear,
    "workers": workers,
    "bookkeeping": bookkeeping,
}


def main() -> None:
    """Measure the parts that are asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    earlier = RESULTS / "benchmark_blockwise.json"
    results = json.loads(earlier.read_text()) if earlier.exists() else {}
    results.pop("environment", None)
    for part in arguments.only:
        load, begin = os.getloadavg()[0], time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results[part] = PARTS[part](Path(folder))
        results[part]["load_average"] = [load, os.getloadavg()[0]]
        results[part]["seconds_of_part"] = time.perf_counter() - begin
        write_results("benchmark_blockwise", results)
        print(part, json.dumps(results[part], indent=1))


if __name__ == "__main__":
    main()
