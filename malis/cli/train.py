"""``python -m malis train``."""

import argparse
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cremi_eval import Volume
from malis.cli import files
from malis.cli.configuration import (
    Configuration,
    Data,
    parse_override,
    read_configuration,
)
from malis.scale.volumes import in_trained_range
from malis.training import distributed
from malis.training.augmentation import Augmentation
from malis.training.checkpoint import load_model, save_model
from malis.training.dataset import (
    LabelledVolume,
    PatchDataset,
    SectionSplit,
    labelled_volume,
    split_sections,
)
from malis.training.description import architecture
from malis.training.loop import History, train
from malis.training.validation import validation_scores

HELP = """\
train a network on volumes with ground truth

CONFIG is a TOML file that names volumes, split, network, loss and training; --example prints one
with a comment on every key, --example slabs one for affinities in 3D. OUT gets the trained network
with a card that says how it came about; the other commands read it.

Beside OUT grow OUT.checkpoint, from which the same command goes on after an interruption with the
numbers that it would have had, and, if TensorBoard is installed, the logs OUT.tensorboard. Ctrl-C
and SIGTERM save what was done first; `malis predict` and `malis segment` take OUT.checkpoint, too.

examples:
  python -m malis train --example > train.toml
  python -m malis train train.toml my.model --set training.steps=3000 training.seed=1
  torchrun --nproc-per-node 4 -m malis train train.toml my.model      # on four GPUs of one machine
"""
EXAMPLES = ("sections", "slabs")  # TOML files beside this one
LAST_STEPS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "--example",
        action=_PrintExample,
        nargs="?",
        choices=EXAMPLES,
        help="print a configuration and stop",
    )
    parser.add_argument("configuration", metavar="CONFIG", help="TOML file")
    parser.add_argument("output", metavar="OUT", type=Path, help="file for the trained network")
    parser.add_argument(
        "--set",
        type=parse_override,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="replace values of the configuration, e.g. training.steps=3000",
    )
    parser.add_argument(
        "--device", metavar="NAME", help='"cpu" or "cuda:0"; by default a GPU if there is one'
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew even if there is OUT.checkpoint"
    )
    files.add_output_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Train on the devices that torchrun gives, or on one."""
    configuration = read_configuration(options.configuration, options.set)
    inputs = [options.configuration, *configuration.data.volumes, configuration.weights]
    files.check_output(options.output, options.overwrite, inputs)
    checkpoint = _beside(options.output, "checkpoint")
    with distributed.process_group(options.device) as device:
        try:
            _train(configuration, options, device)
        except ValueError as error:
            if str(checkpoint) in str(error):
                error.add_note("--restart begins anew")
            raise


def _train(
    configuration: Configuration, options: argparse.Namespace, device: torch.device | None
) -> None:
    """Train, and write the model."""
    settings, offsets = configuration.training, configuration.offsets
    output, checkpoint = options.output, _beside(options.output, "checkpoint")
    volumes = [_load(path, configuration.data) for path in configuration.data.volumes]
    splits = [_split(configuration, volume) for volume in volumes]
    torch.manual_seed(settings.seed)
    network = _network(configuration)
    # The checksum tells the weights to begin with apart from others in a file of the same name.
    weights = configuration.weights
    start = f"{zlib.crc32(Path(weights).read_bytes()):08x}" if weights else ""
    # A slab has one more axis than the network. A margin along z would cost too much: objects
    # shift from section to section.
    slab = (settings.depth,) if settings.depth > 1 else ()
    patches = PatchDataset(
        [volume.sections(split.train) for volume, split in zip(volumes, splits, strict=True)],
        (*slab, *settings.patch),
        (*slab, *network.output_size(settings.patch)),
        augment=Augmentation() if settings.augment else None,
        boundary=(0, *(settings.boundary,) * 2) if slab else settings.boundary,
        neighbours=settings.neighbours,
        seed=settings.seed,
    )
    validation = [
        volume.sections(split.validation)
        for volume, split in zip(volumes, splits, strict=True)
        if split.validation
    ]

    def validate(network: nn.Module) -> dict[str, float]:
        return validation_scores(network, validation, offsets, configuration.data.ignore)

    def model(history: History) -> dict[str, Any]:
        card = _card(configuration, splits, history)
        return {"arguments": configuration.arguments, "offsets": offsets, "card": card}

    if options.restart and distributed.rank() == 0:
        checkpoint.unlink(missing_ok=True)
    distributed.wait()
    history = train(
        network,
        configuration.loss,
        patches,
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=configuration.learning_rate,
        max_gradient_norm=settings.max_gradient_norm,
        mixed_precision=settings.precision == "bfloat16",
        channels_last=settings.channels_last,
        seed=settings.seed,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=settings.checkpoint_every,
        start=start,
        validate=validate if validation else None,
        validate_every=settings.validate_every,
        log=_tensorboard(_beside(output, "tensorboard")),
        model=model,
        progress=not options.quiet,
    )
    if distributed.rank() == 0:
        save_model(output, network, **model(history))
        losses = history.training["loss"][-LAST_STEPS:]
        mean = f"loss {np.mean(losses):.4f} over the last {len(losses)}"
        print(f"{output}: {settings.steps} steps, {mean}")
        if last := _last(history):
            print(
                f"validation: CREMI score {last['cremi_score']:.4f} at threshold "
                f"{last['threshold']:.3f}, which `malis segment` will take"
            )


def _network(configuration: Configuration) -> nn.Module:
    """Make the network, with the weights of a model if the configuration names one."""
    network = configuration.network(**configuration.arguments)
    if configuration.weights is not None:
        model = load_model(configuration.weights)
        if architecture(model.network) != architecture(network):
            raise ValueError(f"{configuration.weights} holds another network than [network] says")
        if model.offsets != configuration.offsets:
            raise ValueError(f"{configuration.weights} has the offsets {model.offsets}")
        network.load_state_dict(model.network.state_dict())
    return network


def _load(path: str, data: Data) -> LabelledVolume:
    """Read a volume as the other commands do."""
    parts = [files.open_part(path, part, data.resolution or None) for part in ("raw", "labels")]
    parts[0] = in_trained_range(parts[0], {}, data.range or None)
    return labelled_volume(*(Volume(each, each.resolution, each.offset) for each in parts), path)


def _split(configuration: Configuration, volume: LabelledVolume) -> SectionSplit:
    """Return the sections of a volume that the configuration, or else the usual shares, name."""
    if configuration.split is None:
        return split_sections(len(volume.raw))
    named = vars(configuration.split)
    for part, sections in named.items():
        if sections and sections[1] > len(volume.raw):
            raise ValueError(
                f"split.{part} is {sections}, but {volume.name} has {len(volume.raw)} sections"
            )
    return SectionSplit(**{part: range(*(sections or (0, 0))) for part, sections in named.items()})


def _card(
    configuration: Configuration, splits: Sequence[SectionSplit], history: History
) -> dict[str, Any]:
    """Write down where a network comes from."""
    names = [Path(path).name for path in configuration.data.volumes]
    card = {
        "data": ", ".join(names),
        "split": {
            name: {part: str(sections) for part, sections in vars(split).items()}
            for name, split in zip(names, splits, strict=True)
        },
        "loss": repr(configuration.loss),
        "steps": len(history.training.get("step", [])),
        "seed": configuration.training.seed,
        # JSON has no infinity, which max_gradient_norm may be.
        "configuration": json.loads(json.dumps(configuration.table), parse_constant=str),
    }
    if configuration.data.range:
        card["grey_range"] = configuration.data.range
    if last := _last(history):
        card["scores"] = {
            "agglomeration": {
                "threshold": last["threshold"],
                "inside": last["inside"],
                "validation_cremi": last["cremi_score"],
            }
        }
    return card


def _last(history: History) -> dict[str, float]:
    """Return the numbers of the last validation, if there was one."""
    return {name: values[-1] for name, values in history.validation.items()}


def _tensorboard(folder: Path) -> Callable[[int, Mapping[str, float]], None] | None:
    """Return a function that logs numbers to TensorBoard, or None if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writers: list[SummaryWriter] = []

    def log(step: int, numbers: Mapping[str, float]) -> None:
        if not writers:  # of an earlier run, what lies behind this step counts no more
            writers.append(SummaryWriter(folder, purge_step=step))
        for name, value in numbers.items():
            writers[0].add_scalar(name, value, step)

    return log


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f"{output.name}.{suffix}")


class _PrintExample(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        kind: str | None,
        *_: Any,
    ) -> None:
        path = Path(__file__).with_name(f"{kind or 'sections'}.toml")
        print(path.read_text(encoding="utf-8"), end="")
        parser.exit()
