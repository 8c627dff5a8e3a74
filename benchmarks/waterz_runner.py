"""Run waterz, in whatever Python has it: ``python benchmarks/waterz_runner.py IN.npz OUT.npz``.

waterz (Funke et al.) is what our agglomeration is compared with. It is no dependency of this
project, so this file runs on its own, with NumPy and waterz only:

    python -m venv waterz && waterz/bin/pip install waterz

IN holds ``affinities`` (3, z, y, x), ``fragments`` (z, y, x) labelled 1 ... N, ``thresholds`` (T,)
(merge while the affinity is above), ``functions`` (names of `FUNCTIONS`) and ``repeats``. OUT holds
for each function ``<name>_regions`` (T, N), the region of every fragment at every threshold, and
``<name>_seconds`` (repeats,); ``memory_bytes`` is the most memory that the process had, less what
it had before it read IN.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

FUNCTIONS = {
    "mean": "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
    "quantile75": (
        "OneMinus<HistogramQuantileAffinity<RegionGraphType, 75, ScoreValue, 256, false>>"
    ),
    "quantile75_max": (
        "OneMinus<HistogramQuantileAffinity<RegionGraphType, 75, ScoreValue, 256, true>>"
    ),
}


def memory_bytes(peak: bool = False) -> int:
    """Return the resident memory of this process, now or at its peak, on Linux.

    Not from `getrusage`, whose value starts with the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:" if peak else "VmRSS:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Read IN, run every function, write OUT."""
    import waterz

    start_bytes = memory_bytes()
    data = np.load(sys.argv[1])
    affinities, fragments = data["affinities"], data["fragments"].astype(np.uint64)
    thresholds = [1 - float(threshold) for threshold in data["thresholds"]]
    first = np.unique(fragments, return_index=True)[1]
    results = {"version": np.array(waterz.__version__)}
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # waterz tells every step
    small = np.arange(1, 9, dtype=np.uint64).reshape(2, 2, 2)
    for name in data["functions"]:
        function = FUNCTIONS[str(name)]
        tiny = np.full((3, 2, 2, 2), 0.5, np.float32)
        list(waterz.agglomerate(tiny, [0.5], fragments=small.copy(), scoring_function=function))
        seconds = []
        for _ in range(int(data["repeats"])):
            segments, regions = fragments.copy(), []
            start = time.perf_counter()
            runs = waterz.agglomerate(
                affinities, thresholds, fragments=segments, scoring_function=function
            )
            for cut in runs:  # by ascending 1 - affinity
                regions.append(cut.ravel()[first])
            seconds.append(time.perf_counter() - start)
        order = np.argsort(np.argsort(thresholds, kind="stable"), kind="stable")
        results[f"{name}_regions"] = np.stack(regions)[order]
        results[f"{name}_seconds"] = np.array(seconds)
    results["memory_bytes"] = np.array(memory_bytes(peak=True) - start_bytes)
    np.savez(sys.argv[2], **results)


if __name__ == "__main__":
    main()
