"""What each of two processes runs in tests/malis/test_distributed.py; torchrun starts it."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from malis import AffinityCrossEntropy, MalisLoss, SumLoss, nearest_offsets
from malis.training import train
from malis.training.dataset import LabelledVolume, PatchDataset
from malis.training.distributed import process_group, rank
from unet import UNet

OFFSETS = nearest_offsets(2)


def patches():
    """Square cells with dark membranes between them."""
    _, y, x = np.indices((4, 48, 48))
    labels = ((y // 12) * 4 + x // 12 + 1).astype(np.uint64)
    raw = np.where((y % 12 == 0) | (x % 12 == 0), 30, 200).astype(np.uint8)
    return PatchDataset(LabelledVolume(raw, labels, (40.0, 4.0, 4.0)), (28, 28), (12, 12))


def network(**settings):
    torch.manual_seed(0)
    return UNet(depth=2, wf=2, **settings)


def both_losses():
    return SumLoss([MalisLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)], [2.0, 0.5])


SETTINGS = {"batch_size": 4, "device": "cpu", "progress": False}


def weights(net):
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def message(call, *arguments, **settings):
    """Return the error of a call that must fail."""
    try:
        call(*arguments, **settings)
    except (ValueError, FloatingPointError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


class BadInOne(nn.Module):
    """A loss that is not finite in the second process alone, in its third step."""

    calls = 0

    def forward(self, affinities, labels):
        self.calls += 1
        return affinities.mean() * (math.nan if rank() == 1 and self.calls == 3 else 1)


def scenarios(folder):
    """Run everything that needs two processes but no accident; return what this one found."""
    found = {}

    net = network()
    sgd = {"optimiser": torch.optim.SGD, "learning_rate": 1.0}
    train(net, both_losses(), patches(), steps=1, **sgd, **SETTINGS)
    found["one step"] = weights(net)

    net, seen = network(), []
    history = train(
        net, both_losses(), patches(), steps=6, **SETTINGS,
        checkpoint=folder / "whole.pt", checkpoint_every=2, validate_every=3,
        validate=lambda net: {"process": rank()},
        log=lambda step, numbers: seen.append((step, sorted(numbers))),
    )  # fmt: skip
    found |= {"weights": weights(net), "loss": history.training["loss"], "logged": seen}
    found["validation"] = history.validation

    parts = folder / "parts.pt"
    train(network(), both_losses(), patches(), steps=3, checkpoint=parts, **SETTINGS)
    net = network(padding=False)
    resumed = train(net, both_losses(), patches(), steps=6, checkpoint=parts, **SETTINGS)
    found |= {"resumed": weights(net), "resumed loss": resumed.training["loss"]}

    net = network()
    mixed = train(net, both_losses(), patches(), steps=2, mixed_precision=True, **SETTINGS)
    found |= {"mixed": weights(net), "mixed loss": mixed.training["loss"]}

    net = network(batch_norm=True)
    train(net, both_losses(), patches(), steps=3, **SETTINGS)
    found["batch norm"] = {name: value.detach().clone() for name, value in net.named_parameters()}

    class RandomLoss(nn.Module):
        def forward(self, affinities, labels):
            drawn.append(torch.rand(()).item())
            return affinities.mean()

    drawn = []
    train(network(), RandomLoss(), patches(), steps=2, **SETTINGS)
    found["drawn"] = drawn

    net = network()
    found["nan"] = message(train, net, BadInOne(), patches(), steps=5, **SETTINGS)
    found["after nan"] = weights(net)
    settings = SETTINGS | {"batch_size": 3}
    found["unequal"] = message(train, net, both_losses(), patches(), steps=1, **settings)
    own = folder / ("whole.pt" if rank() == 0 else "none.pt")
    found["unseen"] = message(
        train, net, both_losses(), patches(), steps=9, checkpoint=own, **SETTINGS
    )
    return found


def main(task, folder):
    with process_group("cpu") as device:
        assert device.type == "cpu"
        if task == "scenarios":
            torch.save(scenarios(folder), folder / f"found{rank()}.pt")
        else:
            (folder / f"pid{rank()}.json").write_text(json.dumps(os.getpid()))
            train(network(), both_losses(), patches(), steps=int(task), **SETTINGS,
                  checkpoint=folder / "endless.pt", checkpoint_every=1)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
