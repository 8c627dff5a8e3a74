"""What is compared with what: data, splits, networks, losses and budgets, in one place."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

import malis
from malis._checks import Offsets
from malis.training.dataset import SectionSplit
from unet import UNet
from unet.plain import PlainCNN

SEEDS = (0, 1, 2)
WEIGHT = 0.3  # of MALIS beside cross-entropy; like the windows, chosen on validation sections


@dataclass(frozen=True)
class Data:
    """A volume, which of its sections serve what, and the budget of a training on it."""

    volume: str  # name for `data.locate.find_volume`
    split: SectionSplit  # training, validation (all choices) and test (the reported score)
    source: str  # whose data it is, and under what terms
    ignore: tuple[int, ...] = ()  # labels that are not scored: 0 where it means membrane
    # Voxels that the network sees in one piece, with an axis for each of the affinities: with two
    # axes sections are predicted and scored one by one.
    patch: tuple[int, ...] = (128, 128)
    window: int | tuple[int, ...] = 32  # voxels that MALIS sees in one piece
    boundary: int = 0  # voxels of every object that become background in training, see malis.labels
    # Sections on each side that a 2D network sees as further channels, see malis.inference; with
    # patches of three axes it is trained on slabs.
    neighbours: int = 0
    whole: bool = False  # whether MALIS sees whole patches where it comes after cross-entropy
    batch: int = 4
    steps: int = 1500
    mixed_precision: bool = True  # whether the network computes in bfloat16; losses never do
    # Of the agglomeration that is compared: the best on validation sections, averaged over U-Nets.
    linkage: str = "mean_linkage"
    absorb: int = 0  # voxels below which a region then joins a neighbour, see `malis.segment`
    methods: tuple[str, ...] = ()  # keys of METHODS; none stands for all of them
    first: int = 0  # section that is counted as number 0; those before it come after the last one
    test_volume: str | None = None  # another volume, all of which is tested
    # Whether pieces of an object that do not touch in what is scored count as objects of their own:
    # what a section, or a slab, cannot show.
    relabel: bool = True
    # Longer edges that are trained as well, by cross-entropy, and go afterwards.
    far: tuple[tuple[int, ...], ...] = ()
    serial: bool = False  # whether sections change their grey values one by one in training
    views: bool = True  # whether the mean over all views is scored, too, see malis.inference.views

    @property
    def offsets(self) -> Offsets:
        """Offsets of the affinities."""
        return malis.nearest_offsets(len(self.patch))

    @property
    def network_ndim(self) -> int:
        """Axes of the network: 2 where it sees neighbouring sections, in slabs too."""
        return 2 if self.neighbours else len(self.patch)


@dataclass(frozen=True)
class Stage:
    """A part of a training: what makes its loss of nearest affinities, and its share of steps."""

    near: Callable[[Data], nn.Module]
    share: float = 1.0

    def loss(self, source: Data) -> nn.Module:
        """Make the loss, that of the longer edges of a volume included."""
        near = self.near(source)
        return WithFarEdges(near, len(source.offsets), source.far) if source.far else near


@dataclass(frozen=True)
class Method:
    """A network and how it is trained."""

    title: str  # in tables and figures: the network, a comma, the losses
    stages: tuple[Stage, ...]  # one after the other, along one decay of the learning rate
    network: type[nn.Module] = UNet
    peak_learning_rate: float = 2e-3
    boundary: int | None = None  # in the place of the data's; not run where it changes nothing

    def margin(self, source: Data) -> int:
        """Return how many voxels of every object become background in training."""
        return source.boundary if self.boundary is None else self.boundary

    def network_arguments(self, source: Data) -> dict[str, Any]:
        """Return the arguments of the network's class for a volume."""
        ndim, channels = source.network_ndim, len(source.offsets)
        inputs = {"in_channels": 1 + 2 * source.neighbours} if source.neighbours else {}
        if self.network is PlainCNN:
            return {"out_channels": channels, "ndim": ndim, **inputs}
        size = {2: {"depth": 4, "wf": 4}, 3: {"depth": 3, "wf": 3}}[ndim]  # 2^wf feature maps
        common = {"padding": True, "batch_norm": True, **inputs}
        return {"n_classes": channels, "ndim": ndim, **size, **common}


class WithFarEdges(nn.Module):
    """The loss of the first channels, and the cross-entropy of all others, whose edges are longer.

    Long edges are an auxiliary target as in Lee et al., arXiv:1706.00120, 2017.
    """

    from_logits = True

    def __init__(self, loss: nn.Module, near: int, far: Offsets) -> None:
        super().__init__()
        self.loss, self.near, self.far = loss, near, far
        self.far_loss = malis.AffinityCrossEntropy(far, from_logits=True)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return a scalar for (B, C, *spatial) logits and (B, *spatial) labels."""
        near, far = logits[:, : self.near], logits[:, self.near :]
        return self.loss(near, labels) + self.far_loss(far, labels)


def grown(make: Callable[[Data], nn.Module]) -> Callable[[Data], nn.Module]:
    """Give a loss the margin of the data, for patches that come without."""
    return lambda data: malis.GrowBoundaryLoss(make(data), data.boundary)


def cross_entropy(data: Data) -> nn.Module:
    """Make the loss of every affinity on its own."""
    return malis.AffinityCrossEntropy(data.offsets, from_logits=True)


def constrained_malis(
    window: int | None = None, *, whole: bool = False, **settings: Any
) -> Callable[[Data], nn.Module]:
    """Make MALIS on windows, those of the data or others, or on whole patches."""

    def make(data: Data) -> nn.Module:
        loss = malis.MalisLoss(data.offsets, from_logits=True, **settings)
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


THREE = ("unet-cross-entropy", "unet-ce-then-malis", "unet-both")
FIB25 = Data(
    "fib25_train.hdf",
    SectionSplit(range(130), range(135, 160), range(165, 200)),
    "FlyEM FIB-25 (Takemura et al., PNAS 2015), CC BY 3.0, cropped and relabelled",
    linkage="quantile75",
    boundary=1,
    whole=True,
)
DATA: dict[str, Data] = {
    "snemi3d": Data(
        "snemi3d_ac4.hdf",
        SectionSplit(range(80), range(80, 100), range(0)),
        "SNEMI3D challenge, AC4 and AC3 (Kasthuri et al., Cell 2015), CC BY 4.0, cropped",
        ignore=(0,),
        patch=(4, 128, 128),
        window=(4, 32, 32),
        neighbours=2,
        linkage="quantile75",
        absorb=5000,
        batch=2,
        steps=3000,
        far=((0, -4, 0), (0, 0, -4), (0, -12, 0), (0, 0, -12), (-2, 0, 0)),
        serial=True,
        methods=THREE,
        test_volume="snemi3d_ac3.hdf",
        relabel=False,
        views=False,
    ),
    "fib25_volume": replace(
        FIB25,
        linkage="single_linkage",
        patch=(48, 48, 48),
        window=24,
        batch=1,
        methods=("unet-cross-entropy", "unet-ce-then-both"),
    ),
    "fib25_slab": replace(
        FIB25,
        linkage="single_linkage",
        patch=(8, 128, 128),
        window=(8, 32, 32),
        neighbours=2,
        absorb=1000,
        whole=False,
        batch=1,
        steps=2000,
        methods=THREE,
    ),
    "fib25_neighbours": replace(
        FIB25,
        neighbours=2,
        steps=2000,
        mixed_precision=False,
        methods=(
            *("unet-cross-entropy-as-labelled", "unet-cross-entropy", "unet-malis"),
            *("unet-both", "unet-both-malis-margin"),
        ),
    ),
    "fib25": replace(FIB25, steps=3000),
    "isbi2012": Data(
        "isbi2012_train.hdf",
        SectionSplit(range(16), range(16, 20), range(20, 24)),
        "ISBI 2012 challenge training stack (Cardona et al., PLoS Biol 2010; Arganda-Carreras et "
        "al., Front Neuroanat 2015); research use with citation",
        ignore=(0,),
    ),
    "synthetic": Data(
        "synthetic",
        SectionSplit(range(16), range(16, 20), range(20, 24)),
        "made by data.synthetic, seed 0",
        linkage="quantile75",
        methods=("cnn-2009", "unet-cross-entropy", "unet-malis", "unet-both"),
    ),
    "cremi_crop": Data(
        "cremi_sample_B_crop.hdf",
        SectionSplit(range(3), range(3, 4), range(4, 5)),
        "CREMI sample B (Saalfeld, Funke, Turaga et al., cremi.org), crop of bigcat; research use "
        "with citation",
        boundary=2,
        linkage="single_linkage",
        methods=("unet-cross-entropy", "unet-ce-then-both"),
    ),
}

METHODS: dict[str, Method] = {
    "cnn-2009": Method(
        "2009 network, maximin loss",
        (Stage(lambda data: malis.MaximinLoss(data.offsets, n_pairs=1000, from_logits=True)),),
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


@dataclass(frozen=True)
class Ablation:
    """Two methods that differ in nothing but MALIS: their title, and keys of `METHODS`."""

    title: str
    baseline: str
    method: str


# Where labels touch, MALIS needs a margin between them (`malis.labels`). Either cross-entropy
# gets it, too, or it learns from the labels as they are and MALIS has a margin of its own.
ABLATIONS = (
    Ablation("with a margin", "unet-cross-entropy", "unet-both"),
    Ablation("labels as they are", "unet-cross-entropy-as-labelled", "unet-both-malis-margin"),
)
# Where they do not touch, there is no margin, and on slabs all methods have it; MALIS is added from
# the start or halfway.
APART = (
    Ablation("MALIS from the start", "unet-cross-entropy", "unet-both"),
    Ablation("MALIS alone in the second half", "unet-cross-entropy", "unet-ce-then-malis"),
)


def ablations_of(data: str) -> tuple[Ablation, ...]:
    """Return the pairs of methods that are compared on a volume."""
    touching = DATA[data].boundary and DATA[data].methods != THREE
    return ABLATIONS if touching else APART


@dataclass(frozen=True)
class Folds:
    """A cross-validation of the ablations of a volume: every fold tests other sections.

    Steps and linkage are those of `Data` where they are None; the linkage is the best on the
    validation sections of all folds.
    """

    count: int
    mixed_precision: bool = False
    steps: int | None = None
    linkage: str | None = None


FOLDS: dict[str, Folds] = {
    "fib25_volume": Folds(5, mixed_precision=True, steps=3000, linkage="quantile75"),
    "fib25_neighbours": Folds(5, mixed_precision=True, linkage="mean_linkage"),
    "isbi2012": Folds(6),
}


def fold_of(data: str, number: int) -> Data:
    """Return a volume of which other sections are held out.

    The stack is turned by as many sections for every fold, so that what was tested is trained on.
    Between the sections that are tested and those that are trained on lie at least as many as
    between validation and test, and at least one. Raises `ValueError` if there is no such fold.
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
        if METHODS[m].boundary != DATA[d].boundary and m in (DATA[d].methods or METHODS)
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
    """Return the name of a run's files without suffix; a method's blanks and signs are dashes."""
    return f"{data}_{re.sub(r'[^A-Za-z0-9.-]+', '-', method)}_{seed}"


def run_name(study: str, data: str, method: str, steps: int, seed: int) -> str:
    """Return the name of a run in the tables of the results."""
    return f"{study}/{data}/{re.sub(r'[^A-Za-z0-9.-]+', '-', method)}/{steps}/{seed}"
