"""Times on the host and on a GPU, and what bounds them: bytes, operations, waits; and memory."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NO_KERNEL = {"detach", "alias", "view", "_unsafe_view", "slice", "select", "transpose", "squeeze"}
NO_KERNEL |= {
    "unsqueeze",
    "expand",
    "t",
    "as_strided",
    "empty",
    "new_empty",
    "empty_like",
    "unbind",
}
WAITS = {"nonzero", "equal", "_local_scalar_dense"}


class Clock:
    """Times of work on a device, in seconds.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    """

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"

    def mark(self) -> float | torch.cuda.Event:
        """Note a moment, on a GPU in its own stream of work."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: float | torch.cuda.Event, stop: float | torch.cuda.Event) -> float:
        """Return the time between two moments that have passed."""
        return start.elapsed_time(stop) / 1000 if self.on_gpu else stop - start

    def times(self, work: Callable[[], object], repeats: int) -> list[float]:
        """Time runs of work, after one that is not counted."""
        work()
        marks = []
        for _ in range(repeats):
            start = self.mark()
            work()
            marks.append((start, self.mark()))
        if self.on_gpu:
            torch.cuda.synchronize()
        return [self.between(*pair) for pair in marks]


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time works on the host in turns, so that they share what else the machine does.

    Parameters
    ----------
    works : dict of callables
    rounds : int
        Each runs so often, after once that is not counted.

    Returns
    -------
    dict of lists
        CPU seconds of this process, by the names of the works.
    """
    times = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Return the median of times, and the least and the greatest."""
    return {"median_s": statistics.median(times), "least_s": min(times), "most_s": max(times)}


class Traffic(TorchDispatchMode):
    """Counts the operations that launch kernels, those that wait for the GPU, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.waits, self.bytes = 0, 0, 0

    def __torch_dispatch__(
        self, operation: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Run an operation and count it."""
        result = operation(*args, **(kwargs or {}))
        name = operation._schema.name.removeprefix("aten::")
        if name not in NO_KERNEL:
            self.operations += 1
            self.waits += name in WAITS
            tensors = [x for x in (*args, result) if isinstance(x, Tensor)]
            if name == "index_select":  # reads as many values as it writes
                tensors[0] = result
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return result


def measure_bandwidth(device: str) -> float:
    """Measure the bytes per second, read plus written, of a large copy."""
    source = torch.rand(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    times = Clock(device).times(lambda: target.copy_(source), 10)
    return 2 * source.numel() * source.element_size() / statistics.median(times)


def memory_of_process() -> dict[str, int]:
    """Read this process's memory and its peak in bytes (on Linux).

    Unlike ``ru_maxrss``, these do not start from the peak of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.endswith("kB"))
    return {name: 1024 * int(size.split()[0]) for name, size in pairs}
