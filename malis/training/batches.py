"""Batches of a training: which items of a dataset each step gets, loaded ahead of time."""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def batch_indices(seed: int, step: int, batch_size: int, length: int) -> list[int]:
    """Tell which items of a dataset, of a length, make up the batch of step 1, 2, ...

    Over the steps, every item comes once before any comes again, and in a new order each time.
    """
    first = (step - 1) * batch_size
    places = (divmod(place, length) for place in range(first, first + batch_size))
    return [int(_order(seed, epoch, length)[place]) for epoch, place in places]


def load_batches(
    dataset: Dataset,
    steps: range,
    batch_size: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    share: slice = slice(None),
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Load the batches of some steps, prepared ahead by worker processes if there are any.

    The items of the dataset are pairs of tensors, raw data and labels; `share` is the part of every
    batch that this process wants, see `malis.training.distributed`.

    Yields
    ------
    step : int
    raw : (B, 1, *patch) float32 tensor
    labels : (B, *spatial) int64 tensor
        Both on the device, or on their way to it.
    """
    batches = (batch_indices(seed, step, batch_size, len(dataset))[share] for step in steps)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),  # else it would draw from torch's own
    )
    loaded = iter(loader)
    for step in steps:
        try:
            raw, labels = next(loaded)
        except Exception as error:
            error.add_note(f"while the batch of training step {step} was loaded")
            raise
        yield step, raw.to(device, non_blocking=True), labels.to(device, non_blocking=True)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)
