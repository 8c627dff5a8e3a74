"""What a training is told: its length, its rates, its files."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

# What decides the weights; the other settings decide where they are computed and kept.
DECISIVE = (
    "batch_size",
    "learning_rate",
    "optimiser",
    "max_gradient_norm",
    "mixed_precision",
    "channels_last",
    "seed",
    "start",
)


@dataclass(frozen=True)
class CosineDecay:
    """A learning rate that falls from its peak to 0 along half a cosine.

    Parameters
    ----------
    peak : float
        At the first step.
    steps : int
        Where it reaches 0.
    done : int
        Steps that an earlier stage of the training has taken of it.
    """

    peak: float
    steps: int
    done: int = 0

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        return self.peak * (1 + math.cos(math.pi * (self.done + step - 1) / self.steps)) / 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keywords of `malis.training.train`.

    Parameters
    ----------
    steps : int
        Number of updates, those before a resumption included.
    batch_size : int
        Patches per step, of all processes together (see `malis.training.distributed`).
    learning_rate : float or callable
        Constant, or a function of the step (1, 2, ...) such as `CosineDecay`.
    optimiser : callable
        ``optimiser(parameters, lr=...)``; `functools.partial` fixes further arguments.
    max_gradient_norm : float
        Longer gradients are shortened to this norm.
    mixed_precision : bool
        Compute the network in bfloat16 where that is safe; loss and weights stay float32.
    channels_last : bool
        Keep the channels of a voxel side by side in memory: the same network, often faster, above
        all with `mixed_precision`.
    seed : int
        Order of the dataset and everything random in network and loss.
    start : str
        Where the weights come from, if from another training, for instance the checksum of its
        file; a checkpoint that started elsewhere is not continued.
    device : str or torch.device, optional
        By default CUDA if there is a device, else the CPU.
    num_workers : int, optional
        Processes that prepare batches; any number gives the same result. By default none on the
        CPU, where they would take the cores from the network, and up to 4 beside a GPU. On Windows,
        a script that has any must call the training under ``if __name__ == "__main__":``.
    checkpoint : str or Path, optional
        File to keep the training in.
    checkpoint_every : int
        Steps between two checkpoints; the last step always gets one.
    resume : bool
        Whether a checkpoint that exists is continued. If not, it is an error that it exists.
    validate_every : int
        Steps between two validations; there is always one after the last step. One that a
        checkpoint lacks, because an error ended it, is made up for when that is continued.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If a number that counts something is below 1.
    TypeError
        If a keyword is unknown, or there is no `steps`.
    """

    steps: int
    batch_size: int = 4
    learning_rate: float | Callable[[int], float] = 1e-4
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    max_gradient_norm: float = math.inf
    mixed_precision: bool = False
    channels_last: bool = False
    seed: int = 0
    start: str = ""
    device: str | torch.device | None = None
    num_workers: int | None = None
    checkpoint: str | Path | None = None
    checkpoint_every: int = 500
    resume: bool = True
    validate_every: int = 500
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.checkpoint_every, self.validate_every) < 1:
            raise ValueError("steps, batch_size and both intervals must be at least 1")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, as a plain number."""
        return float(
            self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        )
