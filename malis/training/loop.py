"""The training loop: patches in, weights out, the same weights however often it was interrupted.

Everything random in step ``s`` is a function of the seed and ``s``: which patches are drawn, what
dropout drops, which pairs a loss samples. A checkpoint therefore needs no state of any generator or
loader; weights, optimiser and step say it all, and a training that was killed goes on with exactly
the numbers that it would have had.

To change the loss, pass another one. A loss is called as ``loss(affinities, labels)`` with
(B, C, *spatial) affinities in [0, 1] and (B, *spatial) labels, and returns a scalar. The sigmoid
that turns the network's logits into affinities is applied here and nowhere else.
"""

import logging
import math
import os
import re
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

from malis.composite import SumLoss
from malis.training import checkpoint as files
from malis.training import distributed
from malis.training.batches import load_batches

Loss = Callable[[Tensor, Tensor], Tensor]
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in what Python writes of a thing without a repr

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
    steps: int,
    batch_size: int = 4,
    learning_rate: float | Callable[[int], float] = 1e-4,
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    max_gradient_norm: float = math.inf,
    mixed_precision: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    num_workers: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
    start: str = "",
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every: int = 500,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    progress: bool = True,
) -> History:
    """Train a network, or go on with a training that was interrupted.

    Parameters
    ----------
    network : nn.Module
        Maps (B, 1, *patch) to (B, C, *spatial) logits. Its weights are changed, and it ends up on
        the device. To go on from other weights (cross-entropy first, then MALIS), load them, or
        train the same network again with another loss and another checkpoint.
    loss : callable
        ``loss(affinities, labels)`` → scalar, see above.
    dataset : Dataset
        Items are (1, *patch) float32 and (*spatial) int64 tensors, see `malis.training.dataset`. It
        is shuffled anew each time it was gone through.
    steps : int
        Number of updates, those before a resumption included.
    batch_size : int
        Patches per step, of all processes together (see `malis.training.distributed`).
    learning_rate : float or callable
        Constant, or a function of the step (1, 2, ...).
    optimiser : callable
        ``optimiser(parameters, lr=...)``; `functools.partial` fixes further arguments.
    max_gradient_norm : float
        Longer gradients are shortened to this norm.
    mixed_precision : bool
        Compute the network in bfloat16 where that is safe; loss and weights stay float32.
    seed : int
        Order of the dataset and everything random in network and loss.
    device : str or torch.device, optional
        By default CUDA if there is a device, else the CPU.
    num_workers : int, optional
        Processes that prepare batches; any number gives the same result. By default none on the
        CPU, where they would take the cores from the network, and up to 4 beside a GPU.
    checkpoint : str or Path, optional
        File to keep the training in.
    checkpoint_every : int
        Steps between two checkpoints; the last step always gets one.
    resume : bool
        Whether a checkpoint that exists is continued. If not, it is an error that it exists.
    start : str
        Where the weights come from, if from another training, for instance the checksum of its
        file; a checkpoint that started elsewhere is not continued.
    validate : callable, optional
        ``validate(network)`` → named numbers; called in evaluation mode, without gradients.
    validate_every : int
        Steps between two validations; there is always one after the last step. One that a
        checkpoint lacks, because an error ended it, is made up for when that is continued.
    log : callable, optional
        ``log(step, numbers)`` is called after every step, and again with the numbers of a
        validation under ``validation/<name>``.
    progress : bool
        Show a progress bar.

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

    Notes
    -----
    The same machine, device and number of threads give the same weights, bit by bit. On CUDA this
    holds for convolutions and pooling, not for operations without a deterministic form in PyTorch,
    such as the interpolation of ``up_mode="upsample"``. A loss that draws from a generator of its
    own, and not from torch's, does not go on where it stopped.

    Groups of parameters to which the optimiser gives learning rates of their own keep their ratio
    to the rate of the first step (to 1 if that is 0).

    A checkpoint knows loss, dataset, learning rate and optimiser by what `describe` writes down of
    them. Of functions and of objects without a ``repr`` of their own that is only the name, so
    another one of that name is taken for the same; a warning is logged where that is so.

    A checkpoint that is due together with a validation is written before it, and again with its
    numbers: an error in `validate` costs no training.

    In the process group of `malis.training.distributed` every process trains on its share of each
    batch, and the first one alone validates, logs, and writes the checkpoint, which all of them
    must be able to read. The history holds the means of all processes, and the seconds of each.
    """
    if min(steps, batch_size, checkpoint_every, validate_every) < 1:
        raise ValueError("steps, batch_size and both intervals must be at least 1")
    device = choose_device() if device is None else torch.device(device)
    first, share = distributed.rank() == 0, distributed.share(batch_size)
    network.to(device)
    if isinstance(loss, nn.Module):
        loss.to(device)
    rate = learning_rate if callable(learning_rate) else lambda step: learning_rate
    base = rate(1) or 1.0  # a warm-up may begin at 0
    updates = optimiser(network.parameters(), lr=base)
    ratios = [group["lr"] / base for group in updates.param_groups]
    configuration = {
        "network": files.architecture(network),
        "loss": describe(loss),
        "dataset": describe(dataset),
        "batch_size": batch_size,
        "learning_rate": describe(learning_rate),
        "optimiser": describe(optimiser),
        "max_gradient_norm": max_gradient_norm,
        "mixed_precision": mixed_precision,
        "seed": seed,
    } | ({"start": start} if start else {})
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and first:
        _warn_of_look_alikes(
            path, loss=loss, dataset=dataset, learning_rate=learning_rate, optimiser=optimiser
        )
    done, history = 0, History()
    if path is not None and path.exists():
        if not resume:
            raise FileExistsError(f"{path} exists; resume=True continues it, or take another name")
        done, history = _restore(path, configuration, steps, network, updates)
    elif path is not None and not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of the checkpoint {path} does not exist")
    distributed.check_equal(done, f"the step at which {path} is", device)
    replica = distributed.replicate(network)

    if num_workers is None:
        num_workers = min(4, os.cpu_count() or 1) if device.type == "cuda" else 0

    def due(every: int, step: int) -> bool:
        return first and (step % every == 0 or step == steps)

    def save(step: int) -> None:
        content = {
            "kind": files.CHECKPOINT,
            "step": step,
            "configuration": configuration,
            "network": network.state_dict(),
            "optimiser": updates.state_dict(),
            "history": history.to_dict(),
        }
        files.write(path, content)

    def score(step: int) -> None:
        numbers = _validate(network, validate)
        _append(history.validation, step, numbers)
        if log:
            log(step, {f"validation/{name}": value for name, value in numbers.items()})

    left = range(done + 1, steps + 1)
    batches = load_batches(dataset, left, batch_size, seed, device, num_workers, share)
    hidden = not (progress and first)
    bar = tqdm(total=steps, initial=done, disable=hidden, unit="step", desc="training")
    with _reproducible(device), bar:
        network.train()
        missing = done > 0 and done not in history.validation.get("step", [])
        if validate and missing and due(validate_every, done):
            score(done)
            save(done)
        clock = _Clock(device)
        for step, raw, labels in batches:
            clock.lap("data")
            _seed_torch(seed, step)
            for group, ratio in zip(updates.param_groups, ratios, strict=True):
                group["lr"] = rate(step) * ratio
            buffers = [buffer.clone() for buffer in network.buffers()]
            try:
                numbers = _update(
                    replica, loss, updates, raw, labels, max_gradient_norm, mixed_precision, clock
                )
            except FloatingPointError as error:
                for buffer, before in zip(network.buffers(), buffers, strict=True):
                    buffer.copy_(before)
                kept = f"; {path} keeps the last checkpoint" if path and path.exists() else ""
                message = f"training diverged in step {step}: {error}{kept}"
                raise FloatingPointError(message) from None
            numbers["learning_rate"] = rate(step)
            numbers |= {f"seconds/{part}": seconds for part, seconds in clock.seconds.items()}
            _append(history.training, step, numbers)
            if log and first:
                log(step, numbers)
            bar.update()
            bar.set_postfix(loss=f"{np.mean(history.training['loss'][-50:]):.4f}", refresh=False)

            saves = path is not None and due(checkpoint_every, step)
            if saves:
                save(step)
            if validate and due(validate_every, step):
                score(step)
                if saves:
                    save(step)
            clock.restart()
    distributed.wait()
    return history


def choose_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(thing: Any) -> str:
    """Write down a loss, dataset or number, the same in every process that builds it alike."""
    return ADDRESS.sub("", _written(thing))


def _warn_of_look_alikes(path: Path, **things: Any) -> None:
    """Log a warning for everything whose description had to drop an address."""
    for name, thing in things.items():
        if ADDRESS.search(_written(thing)):
            logger.warning(
                "when %s is continued, it cannot tell whether the %s is another one: all that it "
                "knows of it is %.200s",
                path,
                name,
                describe(thing),
            )


def _written(thing: Any) -> str:
    """Write down a thing and, if it is a module, the settings of all of its parts."""
    settings = ""
    if isinstance(thing, nn.Module):
        settings = {
            f"{name}.{key}".lstrip("."): value
            for name, module in thing.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_") and key != "training"
        }
    return f"{thing!r} {settings}".strip()


def _seed_torch(seed: int, step: int) -> None:
    """Make what is random in a step a function of seed, step and process; 0 is as one alone."""
    entropy = np.random.SeedSequence([seed, step, distributed.rank()])
    torch.manual_seed(int(entropy.generate_state(1)[0]))


def _update(
    network: nn.Module,
    loss: Loss,
    updates: torch.optim.Optimizer,
    raw: Tensor,
    labels: Tensor,
    max_gradient_norm: float,
    mixed_precision: bool,
    clock: "_Clock",
) -> dict[str, float]:
    """Do one step of the optimisation; the weights stay as they were if a number is not finite."""
    with torch.autocast(raw.device.type, torch.bfloat16, enabled=mixed_precision):
        logits = network(raw)
    if logits.shape[2:] != labels.shape[1:]:
        raise ValueError(
            f"the network turns patches of {tuple(raw.shape[2:])} voxels into "
            f"{tuple(logits.shape[2:])}, but the labels have {tuple(labels.shape[1:])}: "
            "give the dataset output_size=network.output_size(patch_size)"
        )
    clock.lap("network")

    # The loss starts from a leaf of its own, which tells its time from the network's.
    leaf = logits.detach().float().requires_grad_()
    if not leaf.isfinite().all():
        raise FloatingPointError("the network's output is not finite")
    total, terms = _evaluate(loss, leaf.sigmoid(), labels)
    numbers = {"loss": total.item()} | {f"loss/{name}": term.item() for name, term in terms.items()}
    numbers = distributed.mean(numbers, raw.device)
    _check_finite(numbers)
    total.backward()
    clock.lap("loss")

    updates.zero_grad()
    logits.backward(leaf.grad.to(logits.dtype))
    norm = nn.utils.clip_grad_norm_(network.parameters(), max_gradient_norm)
    numbers["gradient_norm"] = norm.item()
    _check_finite(numbers)
    updates.step()
    clock.lap("network")
    return numbers


def _evaluate(loss: Loss, affinities: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and, for a sum, its terms before they are weighted."""
    if not isinstance(loss, SumLoss):
        return loss(affinities, labels), {}
    kinds = [type(part).__name__ for part in loss.losses]
    names = [k if kinds.count(k) == 1 else f"{k} {i}" for i, k in enumerate(kinds)]
    terms = [part(affinities, labels) for part in loss.losses]
    weighted = [weight * term for weight, term in zip(loss.weights, terms, strict=True)]
    return torch.stack(weighted).sum(), dict(zip(names, terms, strict=True))


def _check_finite(numbers: Mapping[str, float]) -> None:
    if not all(map(math.isfinite, numbers.values())):
        raise FloatingPointError(", ".join(f"{name} = {x:g}" for name, x in numbers.items()))


def _validate(
    network: nn.Module, validate: Callable[[nn.Module], Mapping[str, float]]
) -> dict[str, float]:
    network.eval()
    with torch.no_grad():
        numbers = {name: float(value) for name, value in validate(network).items()}
    network.train()
    return numbers


def _append(columns: dict[str, list[float]], step: int, numbers: Mapping[str, float]) -> None:
    for name, value in {"step": step, **numbers}.items():
        columns.setdefault(name, []).append(value)


def _restore(
    path: Path,
    configuration: dict[str, Any],
    steps: int,
    network: nn.Module,
    updates: torch.optim.Optimizer,
) -> tuple[int, History]:
    """Load a checkpoint into network and optimiser, if it is one of this very training."""
    content = files.read(path, files.CHECKPOINT)
    differences = [
        f"{name} was {was}, is {now}" if len(f"{was}{now}") < 200 else f"another {name}"
        for name in content["configuration"] | configuration
        if (was := content["configuration"].get(name)) != (now := configuration.get(name))
    ]
    if differences:
        raise ValueError(
            f"{path} belongs to another training ({'; '.join(differences)}): "
            "continue with what it was begun with, or take another name"
        )
    if content["step"] > steps:
        raise ValueError(f"{path} is at step {content['step']}, beyond the {steps} asked for")
    network.load_state_dict(content["network"])
    updates.load_state_dict(content["optimiser"])
    return content["step"], History(**content["history"])


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
