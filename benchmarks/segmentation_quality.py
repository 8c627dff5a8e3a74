"""How good are the segmentations: agglomeration, the baselines, and waterz on the same fragments.

    python -m benchmarks.segmentation_quality --waterz-python waterz/bin/python
    python -m benchmarks.segmentation_quality --quick      one noise level, one seed; writes nothing

Affinities are derived from real labels (`benchmarks.derived_affinities`). Every method chooses its
threshold by the CREMI score of the validation sections; scores are those of the test sections, as
`cremi_eval` computes them. Writes ``report/results/benchmark_waterz.json``.
"""

import argparse
import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.derived_affinities import derive_affinities
from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds, Scores, mean_of_sections
from data.locate import find_volume
from malis import nearest_offsets
from malis.segmentation import (
    agglomerate,
    best_threshold,
    connected_components,
    fragments,
    threshold_watershed,
)
from malis.segmentation.threshold import middle_of_lowest
from report.record import write_results

NOISE = (0.7, 1.0, 1.3)
SEEDS = (0, 1, 2, 3, 4, 5)
NOISY_THRESHOLD = 0.7  # of fragments: noise lowers the affinities within cells, too
BASELINE_GRID = np.array([0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
GRID = np.round(np.arange(0.99, 0, -0.01), 2)  # of the agglomerations, waterz' included
LINKAGES = {
    "mean": {"linkage": "mean"},
    "single": {"linkage": "single"},
    "quantile75": {"linkage": "quantile", "quantile": 0.75},
    "quantile75_max": {"linkage": "quantile", "quantile": 0.75, "initial_maximum": True},
}
WATERZ_FUNCTIONS = ("mean", "quantile75", "quantile75_max")
RUNNER = Path(__file__).with_name("waterz_runner.py")


@dataclass(frozen=True)
class Data:
    """Which sections choose the threshold, and which are scored.

    Attributes
    ----------
    volume : str
        Name for `data.locate.find_volume`.
    validation, test : slice
        Sections.
    flat : bool
        Whether sections are segmented one by one.
    ignore : tuple of int
        Labels that are not scored.
    """

    volume: str
    validation: slice
    test: slice
    flat: bool
    ignore: tuple[int, ...] = ()

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """Offsets of the affinities."""
        return nearest_offsets(2 if self.flat else 3)


DATA = {
    "isbi2012": Data("isbi2012_train.hdf", slice(16, 20), slice(20, 24), True, (0,)),
    "cremi_crop": Data("cremi_sample_B_crop.hdf", slice(3, 4), slice(4, 5), True),
    "fib25_sections": Data("fib25_train.hdf", slice(135, 160, 6), slice(165, 200, 7), True),
    "fib25": Data("fib25_train.hdf", slice(135, 160), slice(165, 200), False),
}


@dataclass(frozen=True)
class Sample:
    """One section, or one volume, with its fragments.

    Attributes
    ----------
    affinities : (C, *spatial) float32 array
    fragments : (*spatial) uint64 array
    truth : (*spatial) integer array
    """

    affinities: np.ndarray
    fragments: np.ndarray
    truth: np.ndarray


def derived_samples(data: Data, sections: slice, noise: float, seed: int) -> list[Sample]:
    """Make samples of derived affinities."""
    with h5py.File(find_volume(data.volume)) as file:
        labels = file["volumes/labels/neuron_ids"][sections]
    rng = np.random.default_rng([seed, sections.start])
    parts = list(labels) if data.flat else [labels]
    affinities = [
        derive_affinities(part, data.offsets, rng, noise=noise, background=bool(data.ignore))
        for part in parts
    ]
    return make_samples(data, affinities, parts, threshold=NOISY_THRESHOLD)


def make_samples(
    data: Data, affinities: Iterable[np.ndarray], truths: Iterable[np.ndarray], **settings: Any
) -> list[Sample]:
    """Add the fragments that all agglomerations share."""
    return [
        Sample(part, fragments(part, data.offsets, **settings), truth)
        for part, truth in zip(affinities, truths, strict=True)
    ]


def mean_score(data: Data, samples: list[Sample], segments: list[np.ndarray]) -> Scores:
    """Score segmentations, one a sample, and average."""
    shape = (1, 1, 1)
    return mean_of_sections(
        [
            NeuronIds(
                Volume(np.atleast_3d(sample.truth), shape), ignore_groundtruth=data.ignore
            ).whole_volume_scores(np.atleast_3d(segment))
            for sample, segment in zip(samples, segments, strict=True)
        ]
    )


def by_hierarchy(
    data: Data, validation: list[Sample], test: list[Sample], settings: dict[str, Any]
) -> dict[str, Any]:
    """Agglomerate; choose among the cuts at the thresholds that waterz is given, too."""
    built = [
        [agglomerate(s.affinities, data.offsets, s.fragments, **settings) for s in samples]
        for samples in (validation, test)
    ]
    truths = [s.truth for s in validation]
    threshold, curve = best_threshold(
        built[0], truths, thresholds=GRID, ignore_groundtruth=data.ignore
    )
    scores = mean_score(data, test, [h.cut(threshold) for h in built[1]])
    return {
        "threshold": threshold,
        "validation_cremi": float(curve.cremi[curve.best()]),
        "test": scores.as_dict(),
    }


def by_grid(
    data: Data,
    validation: list[Sample],
    test: list[Sample],
    grid: np.ndarray,
    segment: Callable[[list[Sample], float], list[np.ndarray]],
) -> dict[str, Any]:
    """Segment at every threshold of a descending grid; choose the best."""
    errors = [mean_score(data, validation, segment(validation, t)).cremi_score for t in grid]
    best = middle_of_lowest(np.array(errors))
    scores = mean_score(data, test, segment(test, grid[best]))
    return {
        "threshold": float(grid[best]),
        "validation_cremi": errors[best],
        "test": scores.as_dict(),
    }


def segment_all(
    method: Callable[..., np.ndarray], data: Data, samples: list[Sample], threshold: float
) -> list[np.ndarray]:
    """Apply a baseline to every sample."""
    return [method(s.affinities, data.offsets, threshold) for s in samples]


def run_waterz(python: str, sample: Sample) -> dict[str, np.ndarray]:
    """Let waterz agglomerate a sample; return the region of every fragment at every threshold."""
    affinities, pieces = sample.affinities, sample.fragments
    if pieces.ndim == 2:  # waterz knows volumes only
        affinities = np.concatenate([np.zeros_like(affinities[:1]), affinities])[:, None]
        pieces = pieces[None]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(
            source,
            affinities=affinities,
            fragments=pieces,
            thresholds=GRID,
            functions=np.array(WATERZ_FUNCTIONS),
            repeats=1,
        )
        subprocess.run([python, "-P", RUNNER, source, target], check=True)
        with np.load(target) as results:
            return dict(results)


def by_waterz(
    python: str, data: Data, validation: list[Sample], test: list[Sample]
) -> dict[str, dict[str, Any]]:
    """Agglomerate by waterz with each of its functions; choose on its grid."""
    regions = {id(s): run_waterz(python, s) for s in (*validation, *test)}

    def cut(function: str, samples: list[Sample], threshold: float) -> list[np.ndarray]:
        row = int(np.flatnonzero(threshold == GRID)[0])
        return [
            np.append(0, regions[id(s)][f"{function}_regions"][row]).astype(np.uint64)[s.fragments]
            for s in samples
        ]

    return {
        f"waterz_{function}": by_grid(data, validation, test, GRID, partial(cut, function))
        for function in WATERZ_FUNCTIONS
    }


def compare(
    data: Data, validation: list[Sample], test: list[Sample], waterz_python: str | None
) -> dict[str, dict[str, Any]]:
    """Run every method on the same samples."""
    results = {
        name: by_grid(data, validation, test, BASELINE_GRID, partial(segment_all, method, data))
        for name, method in (
            ("connected_components", connected_components),
            ("threshold_watershed", threshold_watershed),
        )
    }
    for name, settings in LINKAGES.items():
        results[name] = by_hierarchy(data, validation, test, settings)
    if waterz_python:
        results |= by_waterz(waterz_python, data, validation, test)
    return results


def waterz_version(python: str | None) -> str | None:
    """Return waterz' version, or None with a message where it cannot be imported."""
    command = "import waterz; print(waterz.__version__)"
    if python:
        run = subprocess.run([python, "-c", command], capture_output=True, text=True)
        if run.returncode == 0:
            return run.stdout.split()[-1]
    print("waterz is not there: its columns are left out (see --waterz-python)")
    return None


def table(rows: list[dict[str, Any]]) -> str:
    """Format the means over seeds as a Markdown table."""
    methods = list(dict.fromkeys(name for row in rows for name in row["methods"]))
    lines = [
        "| data | affinities | score | " + " | ".join(methods) + " |",
        "|---" * (3 + len(methods)) + "|",
    ]
    for data, source in dict.fromkeys((row["data"], row["source"]) for row in rows):
        same = [row for row in rows if (row["data"], row["source"]) == (data, source)]
        for score in ("voi_sum", "adapted_rand_error", "cremi_score"):
            cells = [
                np.mean([row["methods"][method]["test"][score] for row in same])
                for method in methods
            ]
            values = " | ".join(f"{cell:.3f}" for cell in cells)
            lines.append(f"| {data} | {source} | {score} | {values} |")
    return "\n".join(lines) + "\n"


def times_waterz(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Divide our mean scores by those of waterz, for every data set and function.

    The standard error of each ratio is that of the mean difference over the samples. Scores lie in
    few bins of the histograms, and the order of equal ones decides merges: by chance, in both.
    """
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for data in dict.fromkeys(row["data"] for row in rows):
        methods = [row["methods"] for row in rows if row["data"] == data]
        ratios[data] = {}
        for function in WATERZ_FUNCTIONS:
            if f"waterz_{function}" not in methods[0]:
                continue
            ratios[data][function] = {}
            for score in ("voi_sum", "cremi_score"):
                ours = np.array([m[function]["test"][score] for m in methods])
                theirs = np.array([m[f"waterz_{function}"]["test"][score] for m in methods])
                error = np.std(ours - theirs) / np.sqrt(max(len(ours) - 1, 1))
                ratios[data][function] |= {
                    score: float(ours.mean() / theirs.mean()),
                    f"{score}_standard_error": float(error / theirs.mean()),
                }
    return ratios


def main() -> None:
    """Compare on all data and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--waterz-python", help="a Python that can import waterz")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    version = waterz_version(arguments.waterz_python)
    python = arguments.waterz_python if version else None
    levels, seeds = (NOISE[:1], SEEDS[:1]) if arguments.quick else (NOISE, SEEDS)
    rows = []
    for name, noise, seed in itertools.product(arguments.data, levels, seeds):
        parts = (DATA[name].validation, DATA[name].test)
        samples = [derived_samples(DATA[name], sections, noise, seed) for sections in parts]
        methods = compare(DATA[name], *samples, python)
        rows.append({"data": name, "source": f"noise {noise}", "seed": seed, "methods": methods})
        print(table(rows[-1:]), flush=True)
    print(table(rows), times_waterz(rows))
    if not arguments.quick:
        results = {"waterz": version, "times_waterz": times_waterz(rows), "rows": rows}
        write_results("benchmark_waterz", results)


if __name__ == "__main__":
    main()
