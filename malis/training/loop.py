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
import math
import os
import time
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

from malis.inference.neighbours import as_sections, as_slabs, neighbours_of
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

Loss = Callable[[Tensor, Tensor], Tensor]

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
    them. Of functions and of objects that do not tell their settings that is only the name, so
    another one of that name is taken for the same; a warning is logged where that is so.

    A checkpoint that is due together with a validation is written before it, and again with its
    numbers: an error in `validate` costs no training. Ctrl-C and SIGTERM end a training after the
    step that is under way, with a checkpoint of it; then they do what they always do, see
    `malis.training.interruption`.

    In the process group of `malis.training.distributed` every process trains on its share of each
    batch, and the first one alone validates, logs, and writes the checkpoint, which all of them
    must be able to read. The history holds the means of all processes, and the seconds of each.
    """
    training = _Training(network, loss, dataset, Settings(**settings), validate, log, model)
    training.restore()
    training.run()
    return training.history


def choose_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _Training:
    """A training under way: what `train` was given, and how far it has come."""

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        dataset: Dataset,
        settings: Settings,
        validate: Callable[[nn.Module], Mapping[str, float]] | None,
        log: Callable[[int, Mapping[str, float]], None] | None,
        model: Callable[[History], Mapping[str, Any]] | None,
    ) -> None:
        self.settings, self.validate, self.log, self.model = settings, validate, log, model
        self.device = torch.device(settings.device or choose_device())
        self.first = distributed.rank() == 0
        self.share = distributed.share(settings.batch_size)
        self.network, self.loss, self.dataset = network.to(self.device), loss, dataset
        if isinstance(loss, nn.Module):
            loss.to(self.device)
        base = settings.rate(1) or 1.0  # a warm-up may begin at 0
        self.updates = settings.optimiser(network.parameters(), lr=base)
        self.ratios = [group["lr"] / base for group in self.updates.param_groups]
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
        if settings.channels_last:
            kernels = max(weights.ndim for weights in self.network.parameters())
            self.network.to(memory_format=_channels_last(kernels))
        replica = distributed.replicate(self.network)
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
                self._do_steps(replica, batches, signals, bar)
            except BaseException as error:
                if signals.came or isinstance(error, KeyboardInterrupt | SystemExit):
                    bar.close()
                    with signals.held():
                        self._keep_unfinished()
                raise
        distributed.wait()

    def _do_steps(
        self,
        replica: nn.Module,
        batches: Iterator[tuple[int, Tensor, Tensor]],
        signals: Interruptions,
        bar: tqdm,
    ) -> None:
        self.network.train()
        if self._validation_is_missing():
            self.score()
            self.save()
        clock = _Clock(self.device)
        for step, raw, labels in batches:
            clock.lap("data")
            with signals.held():
                self._advance(step, replica, raw, labels, clock)
            bar.update()
            recent = np.mean(self.history.training["loss"][-50:])
            bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            self._keep()
            clock.restart()

    def save(self) -> None:
        """Write the checkpoint."""
        content = {
            "kind": files.CHECKPOINT,
            "step": self.step,
            "configuration": self.configuration,
            "network": unwrapped(self.network).state_dict(),
            "optimiser": self.updates.state_dict(),
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

    def _keep(self) -> None:
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
            first, *others = [*differences(content["configuration"].get(name), now, name), None]
            if first:
                more = f"another {name}: {first} and {len(others) - 1} more"
                changes.append(more if len(others) > 1 else first)
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
        self.updates.load_state_dict(content["optimiser"])
        self.step = self.saved = content["step"]
        self.history = History(**content["history"])

    def _advance(
        self, step: int, replica: nn.Module, raw: Tensor, labels: Tensor, clock: "_Clock"
    ) -> None:
        """Do a step; if it fails, weights and buffers stay as they were."""
        _seed_torch(self.settings.seed, step)
        rate = self.settings.rate(step)
        for group, ratio in zip(self.updates.param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        try:
            numbers = self._update(replica, raw, labels, clock)
        except BaseException as error:
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            if not isinstance(error, FloatingPointError):
                raise
            path = self.path
            kept = f"; {path} keeps the last checkpoint" if path and path.exists() else ""
            message = f"training diverged in step {step}: {error}{kept}"
            raise FloatingPointError(message) from None
        numbers["learning_rate"] = rate
        numbers |= {f"seconds/{part}": seconds for part, seconds in clock.seconds.items()}
        _append(self.history.training, step, numbers)
        self.step = step

    def _update(
        self, replica: nn.Module, raw: Tensor, labels: Tensor, clock: "_Clock"
    ) -> dict[str, float]:
        """Update the weights, unless a number is not finite; return the numbers."""
        settings = self.settings
        with torch.autocast(raw.device.type, torch.bfloat16, enabled=settings.mixed_precision):
            logits = self._forward(replica, raw)
        if logits.shape[2:] != labels.shape[1:]:
            raise ValueError(
                f"the network turns patches of {tuple(raw.shape[2:])} voxels into "
                f"{tuple(logits.shape[2:])}, but the labels have {tuple(labels.shape[1:])}: "
                "give the dataset output_size=network.output_size(patch_size)"
            )
        clock.lap("network")

        # The loss starts from a leaf of its own, which tells its time from the network's.
        leaf = logits.detach().float().contiguous().requires_grad_()
        if not leaf.isfinite().all():
            raise FloatingPointError("the network's output is not finite")
        from_logits = getattr(self.loss, "from_logits", False) is True
        total = self.loss(leaf if from_logits else leaf.sigmoid(), labels)
        terms = getattr(self.loss, "last_terms", {})
        numbers = {"loss": total.item()} | {f"loss/{n}": term.item() for n, term in terms.items()}
        numbers = distributed.mean(numbers, raw.device)
        _check_finite(numbers)
        total.backward()
        clock.lap("loss")

        self.updates.zero_grad()
        logits.backward(leaf.grad.to(logits.dtype))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.max_gradient_norm)
        numbers["gradient_norm"] = norm.item()
        _check_finite(numbers)
        self.updates.step()
        clock.lap("network")
        return numbers

    def _forward(self, replica: nn.Module, raw: Tensor) -> Tensor:
        count, network = len(raw), unwrapped(self.network)
        in_slabs = raw.ndim == 5 and getattr(network, "ndim", 3) == 2
        if in_slabs:
            raw = as_sections(raw, neighbours_of(network))
        if self.settings.channels_last:
            raw = raw.contiguous(memory_format=_channels_last(raw.ndim))
        return as_slabs(replica(raw), count) if in_slabs else replica(raw)


def _channels_last(ndim: int) -> torch.memory_format:
    return torch.channels_last if ndim == 4 else torch.channels_last_3d


def _seed_torch(seed: int, step: int) -> None:
    """Make what is random in a step a function of seed, step and process; 0 is as one alone."""
    entropy = np.random.SeedSequence([seed, step, distributed.rank()])
    torch.manual_seed(int(entropy.generate_state(1)[0]))


def _check_finite(numbers: Mapping[str, float]) -> None:
    if not all(map(math.isfinite, numbers.values())):
        raise FloatingPointError(", ".join(f"{name} = {x:g}" for name, x in numbers.items()))


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


class _Clock:
    """Seconds that each part of a step took, summed over its laps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now
