"""How long VOI and Rand take, and how much memory, beside scikit-image.

    python -m benchmarks.evaluation            writes report/results/benchmark_evaluation.json
                                               and benchmarks/EVALUATION.md
    python -m benchmarks.evaluation --quick    small volumes, writes nothing

Every measurement has a process of its own, on one thread, that loads the two uint64 volumes, scores
them several times and reports its times and its peak resident memory (volumes, interpreter and
libraries included). The yardstick is what one would write with scikit-image for the same scores:
``variation_of_information(truth, seg)`` and ``adapted_rand_error(truth, seg)``.
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
from scipy import ndimage

from cremi_eval import CremiFile, NeuronIds, Volume

SEED = 0
RESOLUTION = (40.0, 4.0, 4.0)
OBJECTS = 60_000


def make_case(folder: Path, shape: tuple[int, int, int], objects: int, kind: str) -> int:
    """Write ``truth.npy`` and ``seg.npy``, section by section.

    The truth are Voronoi cells, drawn anew in each section. In the segmentation all borders are
    shifted by two pixels, a tenth of the cells has the label of another one, and a tenth is cut
    into stripes.

    Parameters
    ----------
    folder : Path
        Where to write.
    shape : tuple of int
        (z, y, x).
    objects : int
        In the whole volume.
    kind : {"plain", "noise", "huge ids", "random"}
        "noise" gives every twentieth voxel of the segmentation a random label; "huge ids" spreads
        all labels over 0..2^64-1; "random" gives every voxel of both a random label.

    Returns
    -------
    int
        Bytes of one volume.
    """
    rng = np.random.default_rng(SEED)
    per_section = objects // shape[0]
    names = np.arange(objects + 1, dtype=np.uint64)
    merged = rng.random(objects + 1) < 0.1
    names[merged] = rng.permutation(names[merged])
    striped = rng.random(objects + 1) < 0.1
    truth, seg = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint64, shape)
        for name in ("truth", "seg")
    )
    for z in range(shape[0]):
        cells = 1 + z * per_section + voronoi(shape[1:], per_section, rng)
        section = names[np.roll(cells, (1, 2), (0, 1))]
        stripe = striped[section] & (np.arange(shape[2]) % 40 < 20)
        section[stripe] += np.uint64(objects)
        if kind in ("noise", "random"):
            noisy = rng.random(section.shape) < (0.05 if kind == "noise" else 1)
            section[noisy] = rng.integers(1, objects, np.count_nonzero(noisy))
        if kind == "random":
            cells = rng.integers(1, objects, cells.shape)
        spread = np.uint64((2**64 - 1) // (2 * objects + 1) if kind == "huge ids" else 1)
        truth[z], seg[z] = cells.astype(np.uint64) * spread, section * spread
    return truth.nbytes


def voronoi(shape: tuple[int, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """Fill a section with n cells around random pixels.

    Returns
    -------
    (y, x) int64 array
        Cell of every pixel, 0..n-1.
    """
    empty, cells = np.ones(shape, bool), np.zeros(shape, np.int64)
    seeds = rng.choice(empty.size, n, replace=False)
    empty.flat[seeds], cells.flat[seeds] = False, np.arange(n)
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    return cells[tuple(nearest)]


def arrays(folder: Path) -> tuple[Volume, Volume]:
    """Load truth and segmentation into memory."""
    truth, seg = (Volume(np.load(folder / f"{n}.npy"), RESOLUTION) for n in ("truth", "seg"))
    return truth, seg


def score(folder: Path) -> Callable[[], dict[str, float]]:
    """Score arrays."""
    truth, seg = arrays(folder)
    return lambda: NeuronIds(truth).whole_volume_scores(seg).as_dict()


def score_within_border(folder: Path) -> Callable[[], dict[str, float]]:
    """Score arrays, 25 nm around borders ignored; the mask is part of it."""
    truth, seg = arrays(folder)
    return lambda: NeuronIds(truth, border_threshold=25).whole_volume_scores(seg).as_dict()


def score_files(folder: Path) -> Callable[[], dict[str, float]]:
    """Score compressed CREMI files, without loading the volumes."""
    volumes = (CremiFile(folder / f"{n}.hdf", "r").read_neuron_ids() for n in ("truth", "seg"))
    truth, seg = volumes
    return lambda: NeuronIds(truth).whole_volume_scores(seg).as_dict()


def score_with_skimage(folder: Path) -> Callable[[], dict[str, float]]:
    """Score arrays by scikit-image's two calls."""
    from skimage.metrics import adapted_rand_error, variation_of_information

    truth, seg = (volume.data for volume in arrays(folder))

    def run() -> dict[str, float]:
        split, merge = map(float, variation_of_information(truth, seg))
        error = float(adapted_rand_error(truth, seg)[0])
        return {"voi_split": split, "voi_merge": merge, "adapted_rand_error": error}

    return run


METHODS = {
    "cremi_eval": score,
    "cremi_eval, border 25 nm": score_within_border,
    "cremi_eval, from files": score_files,
    "scikit-image": score_with_skimage,
}


def measure(method: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Run one method in this process.

    Returns
    -------
    dict
        seconds of all runs, peak_bytes, scores.
    """
    run = METHODS[method](folder)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        scores = run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "scores": scores}


def peak_bytes() -> int:
    """Return the peak resident memory of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024


def compare(
    shape: tuple[int, int, int], objects: int, kind: str, methods: list[str], rounds: int
) -> dict[str, Any]:
    """Measure several methods on one pair of volumes, each in its own processes.

    The methods take turns, so that other work on the machine slows them alike.

    Returns
    -------
    dict
        The case, and for every method its least time, peak memory and scores.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume_bytes = make_case(folder, shape, objects, kind)
        if "cremi_eval, from files" in methods:
            for label in ("truth", "seg"):
                with CremiFile(folder / f"{label}.hdf", "w") as file:
                    data = np.load(folder / f"{label}.npy", mmap_mode="r")
                    file.write_neuron_ids(Volume(data, RESOLUTION))
        result: dict[str, Any] = {"shape": shape, "objects": objects, "kind": kind}
        result |= {"volume_bytes": volume_bytes, "methods": {}}
        for method in methods * rounds:
            command = [sys.executable, "-m", "benchmarks.evaluation", "--measure", method]
            command += ["--folder", name, "--repeats", "2"]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            run = subprocess.run(command, capture_output=True, text=True, env=environment)
            if run.returncode:
                raise RuntimeError(f"{method} failed: {run.stderr}")
            found = json.loads(run.stdout)
            earlier = result["methods"].get(method, {"seconds": [], "peak_bytes": 0})
            found["seconds"] = earlier["seconds"] + found["seconds"]
            found["peak_bytes"] = max(earlier["peak_bytes"], found["peak_bytes"])
            result["methods"][method] = found
        for method, found in result["methods"].items():
            found["least_seconds"] = min(found["seconds"])
            found["peak_in_volumes"] = found["peak_bytes"] / volume_bytes
            print(f"{shape} {kind:9}{method:26}{found['least_seconds']:8.2f} s", end="")
            print(f"{found['peak_in_volumes']:7.2f} volumes {found['peak_bytes'] / 2**30:7.2f} GiB")
    ours, theirs = (result["methods"].get(m) for m in ("cremi_eval", "scikit-image"))
    if ours and theirs:
        result["time_ratio"] = ours["least_seconds"] / theirs["least_seconds"]
        for key in ("voi_split", "voi_merge"):
            np.testing.assert_allclose(ours["scores"][key], theirs["scores"][key], rtol=1e-5)
    return result


def page(results: dict[str, Any]) -> str:
    """Lay the results out as a page of Markdown."""
    environment = results["environment"]
    versions = environment["versions"]
    libraries = ", ".join(f"{n} {versions[n]}" for n in ("numpy", "scipy", "scikit-image"))
    lines = [
        "# VOI and Rand: time and memory",
        "",
        "Written by `python -m benchmarks.evaluation`; more in `report/results/`.",
        "Both scores of one pair of uint64 volumes: least time of several on one thread, and peak",
        "memory of the whole process, both volumes included, as multiples of one volume.",
        "",
        f"{environment['processor']}, {environment['cores']} cores shared with other work, "
        f"Python {versions['python']}, {libraries}; {environment['date'][:10]}.",
        "",
        "| volume | labels | method | time | memory | |",
        "|---|---|---|---|---|---|",
    ]
    for case in results["cases"]:
        shape = " x ".join(map(str, case["shape"]))
        theirs = case["methods"].get("scikit-image", {}).get("least_seconds")
        for method, found in case["methods"].items():
            seconds = found["least_seconds"]
            ratio = (
                f"{theirs / seconds:.1f} times faster" if theirs and method == "cremi_eval" else ""
            )
            memory = f"{found['peak_in_volumes']:.1f}x, {found['peak_bytes'] / 2**30:.1f} GiB"
            row = (shape, case["kind"], method, f"{seconds:.2f} s", memory, ratio)
            lines.append(f"| {' | '.join(row)} |")
    return (
        "\n".join(lines)
        + """

Labels: 60,000 cells, drawn anew in each section; the segmentation has shifted borders, merges and
splits. *noise*: every twentieth voxel has a random label besides. *huge ids*: labels spread over
0..2^64-1, which scikit-image cannot take, because it uses them as indices of a matrix. *random*:
every voxel has a random label in both volumes; nearly every voxel is a pair of its own.
"""
    )


def main() -> None:
    """Measure all cases, or one of them as a child of itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small volumes, writes nothing")
    parser.add_argument("--rounds", type=int, default=4, help="each method runs twice in a round")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.repeats)))
        return
    block, whole = (
        ((5, 200, 200), (10, 200, 200)) if options.quick else ((25, 1250, 1250), (125, 1250, 1250))
    )
    objects = 1000 if options.quick else OBJECTS
    ours = ["cremi_eval", "cremi_eval, border 25 nm", "cremi_eval, from files"]
    cases = [
        compare(block, objects, "plain", [*ours, "scikit-image"], options.rounds),
        compare(block, objects, "noise", ["cremi_eval", "scikit-image"], options.rounds),
        compare(block, objects, "random", ["cremi_eval", "scikit-image"], options.rounds),
        # scikit-image uses labels as indices of a matrix: it cannot score these
        compare(block, objects, "huge ids", ["cremi_eval"], options.rounds),
        compare(whole, objects, "plain", ours, 1),
    ]
    if not options.quick:
        from report.record import write_results

        path = write_results("benchmark_evaluation", {"threads": 1, "cases": cases})
        Path(__file__).with_name("EVALUATION.md").write_text(page(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
