"""Batches of a training: which items of a dataset each step gets, loaded ahead of time."""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


def batch_indices(seed: int, step: int, batch_size: int, length: int) -> list[int]:
    """Tell which items of a dataset make up the batch of a step.

    Parameters
    ----------
    seed : int
        Decides the order.
    step : int
        1, 2, ...
    batch_size : int
        Items per step.
    length : int
        Items of the dataset.

    Returns
    -------
    list of int
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

    Parameters
    ----------
    dataset : Dataset
        Items are pairs of tensors, raw data and labels.
    steps : range
        The steps, counted from 1.
    batch_size, seed : int
        See `batch_indices`.
    device : torch.device or str
        Where the batches are wanted.
    num_workers : int
        Processes that load; 0 loads when a batch is asked for.
    share : slice
        The part of every batch that is wanted, by default all of it; see
        `malis.training.distributed`.

    Yields
    ------
    step : int
    raw : (B, 1, *patch) float32 tensor
    labels : (B, *spatial) int64 tensor
    """
    loader = DataLoader(
        dataset,
        batch_sampler=_Steps(steps, share, batch_size, seed, len(dataset)),
        num_workers=num_workers,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),  # else it would draw from torch's own
    )
    batches = iter(loader)
    for step in steps:
        try:
            raw, labels = next(batches)
        except Exception as error:
            error.add_note(f"while the batch of training step {step} was loaded")
            raise
        yield step, raw.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class _Steps(Sampler[list[int]]):
    """The batches of some steps, or a share of each, as the loader's sampler."""

    def __init__(self, steps: range, share: slice, *order: int) -> None:
        self.steps, self.share, self.order = steps, share, order

    def __iter__(self) -> Iterator[list[int]]:
        batch_size, seed, length = self.order
        batches = (batch_indices(seed, step, batch_size, length) for step in self.steps)
        return (batch[self.share] for batch in batches)

    def __len__(self) -> int:
        return len(self.steps)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)
