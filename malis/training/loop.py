"""The training loop: patches in, weights out, the same weights however often it was interrupted.

Everything random in step ``s`` is a function of the seed and ``s``: which patches are drawn, what
dropout drops, which pairs a loss samples. A checkpoint therefore needs no state of any generator or
loader; weights, optimiser and step say it all, and a training that was killed goes on with exactly
the numbers that it would have had.

To change the loss, pass another one. A loss is called as ``loss(affinities, labels)`` with
(B, C, *spatial) affinities in [0, 1] and (B, *spatial) labels, and returns a scalar. A loss whose
attribute ``from_logits`` is true gets what the network puts out, before the sigmoid; for all others
the sigmoid is applied here and nowhere else.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from malis.training import checkpoint as files
from malis.training import distributed
from malis.training.batches import load_batches
from malis.training.description import (
    architecture,
    describe,
    differences,
    known_by_name,
    unwrapped,
)
from malis.training.interruption import Interruptions
from malis.training.settings import DECISIVE, Settings
from malis.training.step import Clock, Loss, Updates

logger = logging.getLogger(__name__)


@dataclass
class History:
    """What a training wrote down, one column a quantity.

    Attributes
    ----------
    training : dict of lists
        One entry a step: ``step`` (1, 2, ...), ``loss``, ``loss/<name>`` of every term of a
        `SumLoss` before its weight, ``learning_rate``, ``gradient_norm``, and the seconds spent
        waiting for data (``seconds/data``), in the network and the optimiser
        (``seconds/network``), and in the loss with its gradient (``seconds/loss``).
    validation : dict of lists
        One entry a validation: ``step`` and what the validation returned.
    """

    training: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Return the columns as plain containers, ready for JSON."""
        return asdict(self)


def train(
    network: nn.Module,
    loss: Loss,
    dataset: Dataset,
    *,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    model: Callable[[History], Mapping[str, Any]] | None = None,
    **settings: Any,
) -> History:
    """Train a network, or go on with a training that was interrupted.

    Parameters
    ----------
    network : nn.Module
        Maps (B, 1, *patch) to (B, C, *spatial) logits. A 2D network gets slabs section by section,
        with their neighbours, see `malis.inference.neighbours`; its output in 3D goes to the loss.
        Its weights are changed, and it ends up on the device. To go on from other weights
        (cross-entropy first, then MALIS), load them, or train the same network again with another
        loss and another checkpoint.
    loss : callable
        ``loss(affinities, labels)`` → scalar, see above.
    dataset : Dataset
        Items are (1, *patch) float32 and (*spatial) int64 tensors, see `malis.training.dataset`. It
        is shuffled anew each time it was gone through.
    validate : callable, optional
        ``validate(network)`` → named numbers; called in evaluation mode, without gradients.
    log : callable, optional
        ``log(step, numbers)`` is called after every step, and again with the numbers of a
        validation under ``validation/<name>``.
    model : callable, optional
        ``model(history)`` → a dict of ``arguments``, ``offsets`` and ``card``, as
        `malis.training.save_model` takes them. With them in the checkpoint, `load_model` reads the
        network of a training that has not ended.
    **settings
        The fields of `malis.training.Settings`: ``steps``, which must be given, ``batch_size``,
        ``learning_rate``, ``device``, ``checkpoint`` and others.

    Returns
    -------
    History
        Of all steps, those before a resumption included.

    Raises
    ------
    FileExistsError
        If the checkpoint exists and `resume` is false.
    ValueError
        If the checkpoint is damaged, belongs to another architecture or configuration, or is
        further than `steps`; if network and labels disagree in size; or if several processes
        cannot share a batch equally, or do not find the same checkpoint.
    FloatingPointError
        If a loss or gradient is not finite. Weights and buffers are those before that step.
    OSError
        If a checkpoint cannot be written; the one before it is kept.
    TypeError
        If a setting is unknown, or a checkpoint would hold what could not be read again.

    Notes
    -----
    The same machine, device and number of threads give the same weights, bit by bit. On CUDA this
    holds for convolutions and pooling, not for operations without a deterministic form in PyTorch,
    such as the interpolation of ``up_mode="upsample"``. A loss that draws from a generator of its
    own, and not from torch's, does not go on where it stopped.

    Groups of parameters to which the optimiser gives learning rates of their own keep their ratio
    to the rate of the first step (to 1 if that is 0).

    A checkpoint knows loss, dataset, learning rate and optimiser by what `describe` writes down of
    them: of functions, and of objects that do not tell their settings, only the name. A warning is
    logged where that is so.

    A checkpoint that is due together with a validation is written before it, and again with its
    numbers: an error in `validate` costs no training. Ctrl-C and SIGTERM end a training after the
    step that is under way, with a checkpoint of it, see `malis.training.interruption`.

    In the process group of `malis.training.distributed` the first process alone validates, logs,
    and writes the checkpoint, which all of them must be able to read. The history holds the means
    of all processes, and the seconds of each.
    """
    training = _Training(network, loss, dataset, Settings(**settings), validate, log, model)
    training.restore()
    training.run()
    return training.history


def choose_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class _Training:
    """A training under way: what `train` was given, and how far it has come."""

    network: nn.Module
    loss: Loss
    dataset: Dataset
    settings: Settings
    validate: Callable[[nn.Module], Mapping[str, float]] | None
    log: Callable[[int, Mapping[str, float]], None] | None
    model: Callable[[History], Mapping[str, Any]] | None

    def __post_init__(self) -> None:
        settings = self.settings
        self.device = torch.device(settings.device or choose_device())
        self.first = distributed.rank() == 0
        self.share = distributed.share(settings.batch_size)
        self.updates = Updates(self.network, self.loss, settings, self.device)
        self.path = None if settings.checkpoint is None else Path(settings.checkpoint)
        self.step, self.saved, self.history = 0, 0, History()

    def restore(self) -> None:
        """Load the checkpoint, if there is one, and it is one of this very training."""
        path, settings = self.path, self.settings
        if path is not None:
            self._header()  # or complain now
            self.configuration = self._describe()
            if path.exists() and not settings.resume:
                raise FileExistsError(
                    f"{path} exists; resume=True continues it, or take another name"
                )
            if path.exists():
                self._load(files.read(path, files.CHECKPOINT))
            elif not path.parent.is_dir():
                raise FileNotFoundError(f"the folder of the checkpoint {path} does not exist")
        distributed.check_equal(self.step, f"the step at which {path} is", self.device)

    def run(self) -> None:
        """Do the steps that are left."""
        settings = self.settings
        self.updates.begin()
        workers = settings.num_workers
        if workers is None:
            workers = min(4, os.cpu_count() or 1) if self.device.type == "cuda" else 0
        left = range(self.step + 1, settings.steps + 1)
        batches = load_batches(
            self.dataset, left, settings.batch_size, settings.seed, self.device, workers, self.share
        )
        hidden = not (settings.progress and self.first)
        bar = tqdm(
            total=settings.steps, initial=self.step, disable=hidden, unit="step", desc="training"
        )
        with _reproducible(self.device), bar, Interruptions() as signals:
            try:
                self._do_steps(batches, signals, bar)
            except BaseException as error:
                if signals.came or isinstance(error, KeyboardInterrupt | SystemExit):
                    bar.close()
                    with signals.held():
                        self._keep_unfinished()
                if signals.came and isinstance(error, Exception):
                    signals.deliver(signals.came)  # the error is that other processes ended, too
                raise
        distributed.wait()

    def _do_steps(
        self,
        batches: Iterator[tuple[int, Tensor, Tensor]],
        signals: Interruptions,
        bar: tqdm,
    ) -> None:
        self.network.train()
        if self._validation_is_missing():
            self.score()
            self.save()
        clock = Clock(self.device)
        for step, raw, labels in batches:
            clock.lap("data")
            with signals.held():
                self._advance(step, raw, labels, clock)
            bar.update()
            recent = np.mean(self.history.training["loss"][-50:])
            bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            self._finish_step()
            clock.restart()

    def save(self) -> None:
        """Write the checkpoint."""
        content = {
            "kind": files.CHECKPOINT,
            "step": self.step,
            "configuration": self.configuration,
            "network": unwrapped(self.network).state_dict(),
            "optimiser": self.updates.optimiser.state_dict(),
            "history": self.history.to_dict(),
            "model": self._header(),
        }
        files.write(self.path, content)
        self.saved = self.step

    def _header(self) -> dict[str, Any] | None:
        return self.model and files.header(self.network, **self.model(self.history))

    def _keep_unfinished(self) -> None:
        if self.path is not None and self.first and self.step:
            if self.step > self.saved:
                self.save()
            logger.info("%s keeps the %d steps that were done", self.path, self.step)

    def score(self) -> None:
        """Validate, and keep the numbers."""
        self.network.eval()
        with torch.no_grad():
            numbers = {name: float(x) for name, x in self.validate(self.network).items()}
        self.network.train()
        _append(self.history.validation, self.step, numbers)
        if self.log:
            self.log(self.step, {f"validation/{name}": x for name, x in numbers.items()})

    def _finish_step(self) -> None:
        """Log a step, and do what is due after it."""
        if self.log and self.first:
            self.log(self.step, {n: x[-1] for n, x in self.history.training.items() if n != "step"})
        saves = self.path is not None and self._due(self.settings.checkpoint_every)
        if saves:
            self.save()
        if self.validate and self._due(self.settings.validate_every):
            self.score()
            if saves:
                self.save()

    def _due(self, every: int) -> bool:
        return self.first and (self.step % every == 0 or self.step == self.settings.steps)

    def _validation_is_missing(self) -> bool:
        scored = self.history.validation.get("step", [])
        due = self.step > 0 and self._due(self.settings.validate_every)
        return self.validate is not None and due and self.step not in scored

    def _describe(self) -> dict[str, Any]:
        """Write down all that the weights will depend on."""
        things = {"loss": self.loss, "dataset": self.dataset}
        things |= {name: getattr(self.settings, name) for name in DECISIVE}
        for name, thing in things.items():
            if self.first and (names := known_by_name(thing)):
                logger.warning(
                    "when %s is continued, it cannot tell whether the %s is another one: all that "
                    "it knows of %s is the name",
                    self.path,
                    name,
                    ", ".join(dict.fromkeys(names)),
                )
        described = {name: describe(thing) for name, thing in things.items()}
        return {"network": architecture(self.network), **described}

    def _load(self, content: Mapping[str, Any]) -> None:
        changes = []
        for name, now in self.configuration.items():
            found = list(differences(content["configuration"].get(name), now, name))
            if len(found) > 1:
                found = [f"another {name}: {found[0]} and {len(found) - 1} more"]
            changes += found
        if changes:
            raise ValueError(
                f"{self.path} belongs to another training ({'; '.join(changes)}): "
                "continue with what it was begun with, or take another name"
            )
        steps = self.settings.steps
        if content["step"] > steps:
            raise ValueError(
                f"{self.path} is at step {content['step']}, beyond the {steps} asked for"
            )
        unwrapped(self.network).load_state_dict(content["network"])
        self.updates.optimiser.load_state_dict(content["optimiser"])
        self.step = self.saved = content["step"]
        self.history = History(**content["history"])

    def _advance(self, step: int, raw: Tensor, labels: Tensor, clock: Clock) -> None:
        try:
            numbers = self.updates.do(step, raw, labels, clock)
        except FloatingPointError as error:
            path = self.path
            kept = f"; {path} keeps the last checkpoint" if path and path.exists() else ""
            message = f"training diverged in step {step}: {error}{kept}"
            raise FloatingPointError(message) from None
        numbers |= {f"seconds/{part}": seconds for part, seconds in clock.seconds.items()}
        _append(self.history.training, step, numbers)
        self.step = step


def _append(columns: dict[str, list[float]], step: int, numbers: Mapping[str, float]) -> None:
    for name, value in {"step": step, **numbers}.items():
        columns.setdefault(name, []).append(value)


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Let convolutions be deterministic, and give torch's random state back afterwards."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
