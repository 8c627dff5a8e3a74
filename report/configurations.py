"""What is compared with what: data, splits, networks, losses and budgets, in one place."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import malis
from malis._checks import Offsets
from malis.training.dataset import SectionSplit
from unet import UNet
from unet.plain import PlainCNN

SEEDS = (0, 1, 2)
# Without the rows that look into the margin of FIB-25's labels.
USUAL = (
    "cnn-2009",
    "unet-cross-entropy",
    "unet-malis",
    "unet-ce-then-malis",
    "unet-ce-then-both",
    "unet-both",
)
WEIGHT = 0.3  # of MALIS beside cross-entropy; like the windows, chosen on validation sections


@dataclass(frozen=True)
class Data:
    """A volume, which of its sections serve what, and the budget of a training on it.

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
    patch : tuple of int
        Voxels that the network sees in one piece. As many axes as the network has: a 2D network
        takes sections one by one, and they are scored one by one.
    window : int
        Voxels, along each axis, that MALIS sees in one piece.
    boundary : int
        Voxels of every object that become background in training, see `malis.labels`: where
        labels touch.
    neighbours : int
        Sections on each side that a 2D network sees as further channels, see
        `malis.inference.neighbours`.
    whole : bool
        Whether MALIS sees whole patches where it comes after cross-entropy; else windows.
    batch : int
        Patches a step.
    steps : int
        Updates of the weights.
    mixed_precision : bool
        Whether the network computes in bfloat16; the losses never do.
    linkage : str
        Of the agglomeration that is compared: the key of `report.scoring.LINKAGES` with the best
        score on validation sections, averaged over the U-Nets.
    methods : tuple of str
        Keys of `METHODS` that are run; none stands for all of them.
    first : int
        Section that is counted as number 0; those before it come after the last one.
    """

    volume: str
    split: SectionSplit
    source: str
    ignore: tuple[int, ...] = ()
    patch: tuple[int, ...] = (128, 128)
    window: int = 32
    boundary: int = 0
    neighbours: int = 0
    whole: bool = False
    batch: int = 4
    steps: int = 1500
    mixed_precision: bool = True
    linkage: str = "mean_linkage"
    methods: tuple[str, ...] = ()
    first: int = 0

    @property
    def offsets(self) -> Offsets:
        """Offsets of the affinities."""
        return malis.nearest_offsets(len(self.patch))


@dataclass(frozen=True)
class Stage:
    """A part of a training: a loss, and its share of the steps.

    Parameters
    ----------
    loss : callable
        Makes the loss for the data.
    share : float
        Of the steps.
    """

    loss: Callable[[Data], nn.Module]
    share: float = 1.0


@dataclass(frozen=True)
class Method:
    """A network and how it is trained.

    Parameters
    ----------
    title : str
        Name in tables and figures.
    stages : tuple of Stage
        One after the other, along one decay of the learning rate.
    network : type
        Class of the network.
    peak_learning_rate : float
    boundary : int, optional
        In the place of the data's; such a method is not run where it would change nothing.
    """

    title: str
    stages: tuple[Stage, ...]
    network: type[nn.Module] = UNet
    peak_learning_rate: float = 2e-3
    boundary: int | None = None

    def network_arguments(self, ndim: int, neighbours: int = 0) -> dict[str, Any]:
        """Return the arguments of the network's class for 2 or 3 axes."""
        inputs = {"in_channels": 1 + 2 * neighbours} if neighbours else {}
        if self.network is PlainCNN:
            return {"out_channels": ndim, "ndim": ndim, **inputs}
        features = {2: 4, 3: 3}[ndim]  # 16 and 8 feature maps at full resolution
        depth = {2: 4, 3: 3}[ndim]
        common = {"padding": True, "batch_norm": True, **inputs}
        return {"n_classes": ndim, "ndim": ndim, "depth": depth, "wf": features, **common}


def grown(make: Callable[[Data], nn.Module]) -> Callable[[Data], nn.Module]:
    """Give a loss the margin of the data, for patches that come without."""
    return lambda data: malis.GrowBoundaryLoss(make(data), data.boundary)


def cross_entropy(data: Data) -> nn.Module:
    """Make the loss of every affinity on its own."""
    return malis.AffinityCrossEntropy(data.offsets)


def constrained_malis(
    window: int | None = None, *, whole: bool = False, **settings: Any
) -> Callable[[Data], nn.Module]:
    """Make MALIS on windows, those of the data or others, or on whole patches."""

    def make(data: Data) -> nn.Module:
        loss = malis.MalisLoss(data.offsets, **settings)
        return loss if whole else malis.WindowLoss(loss, window or data.window)

    return make


def after_cross_entropy(make: Callable[..., Callable[[Data], nn.Module]]) -> Stage:
    """Make a second stage, on whole patches or on windows as the data have it."""
    return Stage(lambda data: make(whole=data.whole)(data), 1 / 2)


def both(
    weight: float = WEIGHT, *, own_margin: bool = False, **malis_settings: Any
) -> Callable[[Data], nn.Module]:
    """Make the sum of both losses, MALIS with a weight and perhaps a margin of its own."""
    make = constrained_malis(**malis_settings)
    make = grown(make) if own_margin else make
    return lambda data: malis.SumLoss([make(data), cross_entropy(data)], [weight, 1.0])


DATA: dict[str, Data] = {
    "synthetic": Data(
        "synthetic",
        SectionSplit(range(16), range(16, 20), range(20, 24)),
        "made by data.synthetic, seed 0",
        linkage="quantile75",
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
        SectionSplit(range(130), range(135, 160), range(165, 200)),
        "FlyEM FIB-25 (Takemura et al., PNAS 2015), CC BY 3.0, cropped and relabelled",
        linkage="quantile75",
        boundary=1,
        whole=True,
        steps=3000,
    ),
    "fib25_neighbours": Data(
        "fib25_train.hdf",
        SectionSplit(range(130), range(135, 160), range(165, 200)),
        "FlyEM FIB-25 (Takemura et al., PNAS 2015), CC BY 3.0, cropped and relabelled",
        linkage="quantile75",
        boundary=1,
        neighbours=2,
        whole=True,
        steps=2000,
        mixed_precision=False,
        methods=(
            "unet-cross-entropy-as-labelled",
            "unet-cross-entropy",
            "unet-malis",
            "unet-both",
            "unet-both-malis-margin",
        ),
    ),
    "fib25_volume": Data(
        "fib25_train.hdf",
        SectionSplit(range(130), range(135, 160), range(165, 200)),
        "FlyEM FIB-25 (Takemura et al., PNAS 2015), CC BY 3.0, cropped and relabelled",
        linkage="single_linkage",
        patch=(48, 48, 48),
        window=24,
        boundary=1,
        whole=True,
        batch=1,
        methods=("unet-cross-entropy-as-labelled", *USUAL),
    ),
    "cremi_crop": Data(
        "cremi_sample_B_crop.hdf",
        SectionSplit(range(3), range(3, 4), range(4, 5)),
        "CREMI sample B (Saalfeld, Funke, Turaga et al., cremi.org), crop of bigcat; research use "
        "with citation",
        boundary=2,
        methods=USUAL,
    ),
}

METHODS: dict[str, Method] = {
    "cnn-2009": Method(
        "2009 network, maximin loss",
        (Stage(lambda data: malis.MaximinLoss(data.offsets, n_pairs=1000)),),
        PlainCNN,
        3e-3,
    ),
    "unet-cross-entropy": Method("U-Net, cross-entropy", (Stage(cross_entropy),)),
    "unet-cross-entropy-as-labelled": Method(
        "U-Net, cross-entropy, no margin", (Stage(cross_entropy),), boundary=0
    ),
    "unet-malis": Method("U-Net, constrained MALIS", (Stage(constrained_malis()),)),
    "unet-ce-then-malis": Method(
        "U-Net, cross-entropy, then MALIS",
        (Stage(cross_entropy, 1 / 2), after_cross_entropy(constrained_malis)),
    ),
    "unet-ce-then-both": Method(
        "U-Net, cross-entropy, then both",
        (Stage(cross_entropy, 1 / 2), after_cross_entropy(both)),
    ),
    "unet-both": Method("U-Net, both losses", (Stage(both()),)),
    "unet-both-malis-margin": Method(
        "U-Net, both losses, margin for MALIS", (Stage(both(own_margin=True)),), boundary=0
    ),
}

RATES = {"half": 0.5, "twice": 2.0}  # tried for every method


def at_rate(method: str, rate: str) -> Method:
    """Return a method that learns at another rate, half or twice its own."""
    own = METHODS[method]
    return replace(
        own,
        title=f"{own.title}, {rate} the learning rate",
        peak_learning_rate=RATES[rate] * own.peak_learning_rate,
    )


# What was tried on the way, judged by validation sections alone: the learning rate of every method,
# and one setting after the other.
TRIALS: dict[str, Method] = METHODS | {
    trial.title: trial
    for trial in (
        *(at_rate(method, rate) for method in METHODS for rate in RATES),
        Method("U-Net, constrained MALIS, whole patches", (Stage(constrained_malis(whole=True)),)),
        Method("U-Net, both losses, no margin", (Stage(both()),), boundary=0),
        Method(
            "U-Net, both losses, no margin, whole patches",
            (Stage(both(whole=True)),),
            boundary=0,
        ),
        Method("U-Net, both losses, whole patches", (Stage(both(whole=True)),)),
        Method("U-Net, both losses, windows of 64", (Stage(both(window=64)),)),
        Method("U-Net, both losses, weight 0.1", (Stage(both(0.1)),)),
        Method("U-Net, both losses, weight 1", (Stage(both(1.0)),)),
        Method("U-Net, both losses, squared hinge", (Stage(both(edge_loss="squared_hinge")),)),
        Method("U-Net, both losses, logarithmic", (Stage(both(edge_loss="cross_entropy")),)),
        Method("U-Net, both losses, unconstrained", (Stage(both(constrained=False)),)),
        Method(
            "U-Net, cross-entropy, then both, no margin",
            (Stage(cross_entropy, 1 / 2), Stage(both(whole=True), 1 / 2)),
            boundary=0,
        ),
        Method(
            "U-Net, cross-entropy, then both, windows",
            (Stage(cross_entropy, 1 / 2), Stage(both(), 1 / 2)),
        ),
    )
}


@dataclass(frozen=True)
class Ablation:
    """Two methods that differ in nothing but MALIS.

    Parameters
    ----------
    title : str
        What both have, or when MALIS comes in.
    baseline, method : str
        Keys of `METHODS`: cross-entropy alone, and with MALIS.
    """

    title: str
    baseline: str
    method: str


# Where labels touch, MALIS needs a margin between them (`malis.labels`). Either cross-entropy
# gets it, too, or it learns from the labels as they are and MALIS has a margin of its own.
ABLATIONS = (
    Ablation("with a margin", "unet-cross-entropy", "unet-both"),
    Ablation("labels as they are", "unet-cross-entropy-as-labelled", "unet-both-malis-margin"),
)
# Where they do not touch, there is no margin; MALIS is added from the start or halfway.
APART = (
    Ablation("MALIS from the start", "unet-cross-entropy", "unet-both"),
    Ablation("MALIS alone in the second half", "unet-cross-entropy", "unet-ce-then-malis"),
)


def ablations_of(data: str) -> tuple[Ablation, ...]:
    """Return the pairs of methods that are compared on a volume."""
    return ABLATIONS if DATA[data].boundary else APART


@dataclass(frozen=True)
class Folds:
    """A cross-validation of the ablations of a volume: every fold tests other sections.

    Parameters
    ----------
    count : int
        Of the folds.
    mixed_precision : bool
        Whether the networks compute in bfloat16.
    steps : int, optional
        Updates of the weights, where other than in the grid.
    linkage : str, optional
        Of the agglomeration that is compared, where other than in the grid: the best on the
        validation sections of all folds.
    """

    count: int
    mixed_precision: bool = False
    steps: int | None = None
    linkage: str | None = None


FOLDS: dict[str, Folds] = {
    "isbi2012": Folds(6),
    "fib25_neighbours": Folds(5, mixed_precision=True, linkage="mean_linkage"),
    "fib25_volume": Folds(5, mixed_precision=True, steps=3000, linkage="quantile75"),
}


def fold_of(data: str, number: int) -> Data:
    """Return a volume of which other sections are held out.

    The stack is turned by as many sections for every fold, so that what was tested is trained on.
    Between the sections that are tested and those that are trained on lie at least as many as
    between validation and test, and at least one.

    Parameters
    ----------
    data : str
        Key of `FOLDS`.
    number : int
        Of the fold, from 0.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        If there is no such fold.
    """
    folds, source = FOLDS[data], DATA[data]
    if number not in range(folds.count):
        raise ValueError(f"{data} has the folds 0 to {folds.count - 1}, got {number}")
    train, validation, test = source.split.train, source.split.validation, source.split.test
    gap = max(1, test.start - validation.stop)
    return replace(
        source,
        split=SectionSplit(train[gap:], validation, test),
        first=number * (test.stop // folds.count),
        steps=folds.steps or source.steps,
        linkage=folds.linkage or source.linkage,
        mixed_precision=folds.mixed_precision,
    )


def runs(
    data: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> list[tuple[str, str, int]]:
    """List the runs of a grid, all methods of a seed before the next seed."""
    return [
        (d, m, s)
        for d in data
        for s in seeds
        for m in methods
        if TRIALS[m].boundary != DATA[d].boundary
        and (m not in METHODS or m in (DATA[d].methods or METHODS))
    ]


def rate_runs(
    data: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> list[tuple[str, str, int]]:
    """List the trials of other learning rates for the runs of a grid."""
    return [
        (d, at_rate(m, rate).title, s) for d, m, s in runs(data, methods, seeds) for rate in RATES
    ]


def fold_runs(
    data: Sequence[str], methods: Sequence[str] | None = None, folds: Sequence[int] | None = None
) -> list[tuple[str, str, int]]:
    """List the runs of the cross-validations, all methods of a fold before the next fold."""
    listed = [
        (d, m, k)
        for d in data
        if d in FOLDS
        for k in (range(FOLDS[d].count) if folds is None else folds)
        for ablation in ablations_of(d)
        for m in (ablation.baseline, ablation.method)
        if methods is None or m in methods
    ]
    return list(dict.fromkeys(listed))


def file_name(data: str, method: str, seed: int) -> str:
    """Return the name of a run without suffix; that of a trial has no blanks and signs."""
    return f"{data}_{re.sub(r'[^A-Za-z0-9.-]+', '-', method)}_{seed}"
