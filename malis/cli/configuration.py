"""The configuration of a training: one TOML file, checked key by key."""

import argparse
import codecs
import difflib
import inspect
import math
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from malis._checks import check_offsets
from malis.affinity import nearest_offsets
from malis.composite import SumLoss, WindowLoss
from malis.loss import AffinityCrossEntropy, MalisLoss, MaximinLoss
from malis.training.checkpoint import NETWORKS
from malis.training.settings import CosineDecay

LOSSES = (MalisLoss, MaximinLoss, AffinityCrossEntropy)
# Arguments that follow from the patch and the offsets, or make no sense in a file.
DERIVED = {"in_channels", "n_classes", "out_channels", "ndim", "offsets", "generator", "reduction"}
OUTPUTS = {"UNet": "n_classes", "PlainCNN": "out_channels"}


@dataclass(frozen=True)
class Data:
    """Section [data]."""

    volumes: list[str]
    ignore: list[int] = field(default_factory=list)
    range: list[int | float | str] = field(default_factory=list)
    resolution: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Section [split]: sections from the first to one before the second number."""

    train: list[int]
    validation: list[int] = field(default_factory=list)
    test: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Training:
    """Section [training]."""

    patch: list[int] = field(default_factory=lambda: [128, 128])
    augment: bool = True
    boundary: int = 0
    neighbours: int = 0
    depth: int = 1
    batch_size: int = 4
    steps: int = 1500
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    max_gradient_norm: float = math.inf
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    seed: int = 0
    checkpoint_every: int = 500
    validate_every: int = 500

    @property
    def ndim(self) -> int:
        """Axes of the offsets: a 2D network that is trained on slabs predicts affinities in 3D."""
        return 3 if self.depth > 1 else len(self.patch)


@dataclass(frozen=True)
class Configuration:
    """A checked configuration.

    `arguments` are those of the class `network`; `weights` names a model to begin with; `offsets`
    are the edges of the output channels; `table` is what the file and the overrides said.
    """

    data: Data
    split: Split | None
    network: type[nn.Module]
    arguments: dict[str, Any]
    weights: str | None
    offsets: tuple[tuple[int, ...], ...]
    loss: SumLoss
    training: Training
    table: dict[str, Any]

    @property
    def learning_rate(self) -> float | CosineDecay:
        """What `malis.training.train` takes."""
        peak, steps = self.training.learning_rate, self.training.steps
        return CosineDecay(peak, steps) if self.training.schedule == "cosine" else peak


def read_configuration(
    path: str | Path, overrides: Sequence[tuple[str, Any]] = ()
) -> Configuration:
    """Read the configuration of a training from a TOML file; ``sections.toml`` shows all keys.

    Overrides are keys as "training.steps", with the values that replace the file's.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no TOML, or a key is unknown, missing, or has a value that makes no sense.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --example prints one to begin with")
    try:
        table = tomllib.loads(_text(path.read_bytes()))
        for key, value in overrides:
            _replace(table, key.split("."), value)
        return check_configuration(table)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _text(content: bytes) -> str:
    """Decode what an editor saved: UTF-8, as TOML is, or UTF-16 or UTF-8 with a mark of it."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        return content.decode("utf-16" if content.startswith(marks) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            "the text is in another encoding than UTF-8: let the editor save it as UTF-8 "
            f"(byte {error.start} is {content[error.start]:#04x})"
        ) from error


def check_configuration(table: Mapping[str, Any]) -> Configuration:
    """Check a configuration, as TOML gives it, and build what it describes.

    Raises
    ------
    ValueError, TypeError
        If a key is unknown, missing, or has a value that makes no sense.
    """
    _check_keys("", table, ["data", "split", "network", "loss", "training"])
    training = _section(Training, "training", table.get("training", {}))
    if len(training.patch) not in (2, 3):
        raise ValueError(f"training.patch must be [y, x] or [z, y, x], got {training.patch}")
    for name, least in (("neighbours", 0), ("depth", 1)):
        value = getattr(training, name)
        if value < least or (value > least and len(training.patch) != 2):
            raise ValueError(
                f"training.{name} must be a number of sections, with training.patch [y, x], got "
                f"{value} and {training.patch}"
            )
    data = _section(Data, "data", table.get("data", {}))
    if not data.volumes:
        raise ValueError("data.volumes names no file")
    split = _section(Split, "split", table["split"]) if "split" in table else None
    for name, sections in vars(split).items() if split else ():
        if len(sections) != 2 and (sections or name == "train"):
            raise ValueError(f"split.{name} must be [first, one past the last], got {sections}")

    network = dict(_table("network", table.get("network", {})))
    offsets = _offsets(network.pop("offsets", None), training.ndim)
    kind, weights = network.pop("type", "UNet"), network.pop("start", None)
    if weights is not None and not isinstance(weights, str):
        raise ValueError(f"network.start must be the name of a file, got {weights!r}")
    _check_value("network.type", kind, Literal[tuple(OUTPUTS)])
    cls = next(cls for cls in NETWORKS if cls.__name__ == kind)
    _check_keys("network.", network, ["type", "start", "offsets", *_arguments(cls)])
    arguments = {**network, "ndim": len(training.patch), OUTPUTS[kind]: len(offsets)}
    if training.neighbours:
        arguments["in_channels"] = 1 + 2 * training.neighbours
    _build("network", cls, **arguments)
    loss = _loss(_table("loss", table.get("loss", {"MalisLoss": {}})), offsets)
    return Configuration(data, split, cls, arguments, weights, offsets, loss, training, dict(table))


def _offsets(value: Any, ndim: int) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return nearest_offsets(ndim)
    offsets = _build("network", check_offsets, value)
    if offsets.shape[1] != ndim:
        raise ValueError(
            f"network.offsets must have {ndim} numbers each, one for each axis of a patch or slab, "
            f"got {value}"
        )
    return tuple(map(tuple, offsets.tolist()))


def _loss(table: Mapping[str, Any], offsets: Sequence[Sequence[int]]) -> SumLoss:
    classes = {cls.__name__: cls for cls in LOSSES}
    _check_keys("loss.", table, list(classes))
    losses, weights = [], []
    for name, settings in table.items():
        settings = {"from_logits": True, **_table(f"loss.{name}", settings)}
        _check_keys(f"loss.{name}.", settings, ["weight", "window", *_arguments(classes[name])])
        weight, window = settings.pop("weight", 1.0), settings.pop("window", None)
        if not _matches(weight, float) or not 0 <= weight < math.inf:
            raise ValueError(f"loss.{name}.weight must be a number of at least 0, got {weight!r}")
        if weight:
            term = _build(f"loss.{name}", classes[name], offsets, **settings)
            if window is not None:
                term = _build(f"loss.{name}", WindowLoss, term, window)
            losses.append(term)
            weights.append(float(weight))
    if not losses:
        raise ValueError("the loss has no term with a weight above 0")
    return SumLoss(losses, weights)


def _build(name: str, build: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Call a class of the library, and name the section that it does not like."""
    try:
        return build(*arguments, **settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"[{name}] {error}") from error


def _arguments(cls: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(cls).parameters if name not in DERIVED]


def _section(cls: Any, name: str, table: Any) -> Any:
    """Fill a dataclass from a table with keys and types that it knows."""
    table = _table(name, table)
    _check_keys(f"{name}.", table, [known.name for known in fields(cls)])
    for known in fields(cls):
        if known.name in table:
            _check_value(f"{name}.{known.name}", table[known.name], known.type)
        elif known.default is known.default_factory is MISSING:
            raise ValueError(f"{name}.{known.name} is missing")
    return cls(**table)


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a section [{name}], got {value!r}")
    return value


def _check_value(name: str, value: Any, kind: Any) -> None:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    elif not _matches(value, kind):
        said = kind if typing.get_args(kind) else kind.__name__
        raise ValueError(f"{name} must be {said}, got {value!r}")


def _matches(value: Any, kind: Any) -> bool:
    """Tell whether a TOML value is of a type: bool, int, float, str or list of one of them."""
    if typing.get_origin(kind) is list:
        inner = typing.get_args(kind)[0]
        return isinstance(value, list) and all(_matches(item, inner) for item in value)
    if kind is not bool and isinstance(value, bool):
        return False
    return isinstance(value, int | float if kind is float else kind)


def _check_keys(prefix: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown key {prefix}{key}{meant}; known are {', '.join(known)}")


def _replace(table: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ValueError(f"{'.'.join(keys)}: {key} is no section")
    table[keys[-1]] = value


def parse_override(text: str) -> tuple[str, Any]:
    """Read ``training.steps=3000``, an argument of the command; what is no TOML value is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(
            f"write KEY=VALUE, for instance training.steps=3000, not {text!r}"
        )
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value
