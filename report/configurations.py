"""What is compared with what: data, splits, networks, losses and budgets, in one place."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import malis
from malis.dataset import SectionSplit
from malis.fcn import PlainCNN
from unet import UNet

OFFSETS = malis.nearest_offsets(2)


@dataclass(frozen=True)
class Decay:
    """A learning rate that falls from its peak to 0 along half a cosine.

    Parameters
    ----------
    peak : float
        At the first step.
    steps : int
        Where it reaches 0.
    """

    peak: float
    steps: int

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        return self.peak * (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2


@dataclass(frozen=True)
class Data:
    """A volume and which of its sections serve what.

    Parameters
    ----------
    volume : str
        Name for `data.locate.find_volume`.
    split : SectionSplit
        Training, validation (all choices) and test (the reported score).
    source : str
        Whose data it is, and under what terms.
    ignore : tuple of int
        Labels that are not scored: 0 where it means membrane.
    """

    volume: str
    split: SectionSplit
    source: str
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True)
class Method:
    """A network and its loss.

    Parameters
    ----------
    network : callable
        Class of the network.
    loss : callable
        Makes the loss.
    peak_learning_rate : float
    arguments : dict
        Of the network's class.
    """

    network: type[nn.Module]
    loss: Callable[[], nn.Module]
    peak_learning_rate: float
    arguments: dict[str, Any] = field(default_factory=dict)


def _both() -> nn.Module:
    return malis.SumLoss([malis.MalisLoss(OFFSETS), malis.AffinityCrossEntropy(OFFSETS)])


UNET = {"n_classes": 2, "depth": 4, "wf": 4, "padding": True, "batch_norm": True}
PATCH, BATCH, STEPS, SEEDS = (128, 128), 4, 1500, (0, 1, 2)

DATA: dict[str, Data] = {
    "synthetic": Data(
        "synthetic",
        SectionSplit(range(16), range(16, 20), range(20, 24)),
        "made by data.synthetic, seed 0",
    ),
    "isbi2012": Data(
        "isbi2012_train.hdf",
        SectionSplit(range(16), range(16, 20), range(20, 24)),
        "ISBI 2012 challenge training stack (Cardona et al., PLoS Biol 2010; Arganda-Carreras et "
        "al., Front Neuroanat 2015); research use with citation",
        ignore=(0,),
    ),
    "fib25": Data(
        "fib25_train.hdf",
        SectionSplit(range(130), range(135, 160, 6), range(165, 200, 6)),
        "FlyEM FIB-25 (Takemura et al., PNAS 2015), CC BY 3.0, cropped and relabelled",
    ),
    "cremi_crop": Data(
        "cremi_sample_B_crop.hdf",
        SectionSplit(range(3), range(3, 4), range(4, 5)),
        "CREMI sample B (Saalfeld, Funke, Turaga et al., cremi.org), crop of bigcat; research use "
        "with citation",
    ),
}

METHODS: dict[str, Method] = {
    "cnn-2009": Method(
        PlainCNN,
        lambda: malis.MaximinLoss(OFFSETS, n_pairs=1000),
        3e-3,
        {"n_affinities": 2, "ndim": 2},
    ),
    "unet-cross-entropy": Method(UNet, lambda: malis.AffinityCrossEntropy(OFFSETS), 2e-3, UNET),
    "unet-malis": Method(UNet, lambda: malis.MalisLoss(OFFSETS), 2e-3, UNET),
    "unet-both": Method(UNet, _both, 2e-3, UNET),
}


def runs(
    data: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> list[tuple[str, str, int]]:
    """List the runs of a grid, all methods of a seed before the next seed."""
    return [(d, m, s) for d in data for s in seeds for m in methods]
