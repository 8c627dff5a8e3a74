"""One step of a training: a batch through network and loss, and the weights that follow from it."""

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from malis.inference.neighbours import as_sections, as_slabs, neighbours_of
from malis.training import distributed
from malis.training.description import unwrapped
from malis.training.settings import Settings

Loss = Callable[[Tensor, Tensor], Tensor]


class Clock:
    """Seconds that each part of a step took, summed over its laps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Begin a new step."""
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Add what has passed since the last lap to a part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


class Updates:
    """Changes the weights of a network, a step at a time; network and loss go to the device."""

    def __init__(
        self, network: nn.Module, loss: Loss, settings: Settings, device: torch.device
    ) -> None:
        self.network, self.loss, self.settings = network.to(device), loss, settings
        self.replica = network
        if isinstance(loss, nn.Module):
            loss.to(device)
        base = settings.rate(1) or 1.0  # a warm-up may begin at 0
        self.optimiser = settings.optimiser(network.parameters(), lr=base)
        self.ratios = [group["lr"] / base for group in self.optimiser.param_groups]

    def begin(self) -> None:
        """Get ready, when the network has its weights."""
        if self.settings.channels_last:
            kernels = max(weights.ndim for weights in self.network.parameters())
            self.network.to(memory_format=_channels_last(kernels))
        self.replica = distributed.replicate(self.network)

    def do(self, step: int, raw: Tensor, labels: Tensor, clock: Clock) -> dict[str, float]:
        """Do step 1, 2, ...; if it fails, weights and buffers stay as they were.

        With (B, 1, *patch) float32 raw data and (B, *spatial) int64 labels; the clock is told when
        the network and the loss are done. Return "loss", its terms, "gradient_norm" and
        "learning_rate". A FloatingPointError if one of them, or the network's output, is not
        finite; a ValueError if network and labels disagree in size.
        """
        _seed_torch(self.settings.seed, step)
        rate = self.settings.rate(step)
        for group, ratio in zip(self.optimiser.param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        try:
            return self._update(raw, labels, clock) | {"learning_rate": rate}
        except BaseException:
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            raise

    def _update(self, raw: Tensor, labels: Tensor, clock: Clock) -> dict[str, float]:
        settings = self.settings
        with torch.autocast(raw.device.type, torch.bfloat16, enabled=settings.mixed_precision):
            logits = self._forward(raw)
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

        self.optimiser.zero_grad()
        logits.backward(leaf.grad.to(logits.dtype))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.max_gradient_norm)
        numbers["gradient_norm"] = norm.item()
        _check_finite(numbers)
        self.optimiser.step()
        clock.lap("network")
        return numbers

    def _forward(self, raw: Tensor) -> Tensor:
        count, network = len(raw), unwrapped(self.network)
        in_slabs = raw.ndim == 5 and getattr(network, "ndim", 3) == 2
        if in_slabs:
            raw = as_sections(raw, neighbours_of(network))
        if self.settings.channels_last:
            raw = raw.contiguous(memory_format=_channels_last(raw.ndim))
        logits = self.replica(raw)
        return as_slabs(logits, count) if in_slabs else logits


def _channels_last(ndim: int) -> torch.memory_format:
    return torch.channels_last if ndim == 4 else torch.channels_last_3d


def _seed_torch(seed: int, step: int) -> None:
    """Make what is random in a step a function of seed, step and process; 0 is as one alone."""
    entropy = np.random.SeedSequence([seed, step, distributed.rank()])
    torch.manual_seed(int(entropy.generate_state(1)[0]))


def _check_finite(numbers: Mapping[str, float]) -> None:
    if not all(map(math.isfinite, numbers.values())):
        raise FloatingPointError(", ".join(f"{name} = {x:g}" for name, x in numbers.items()))
