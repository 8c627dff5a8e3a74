"""Files that hold networks: checkpoints of a training that goes on, and models that are shipped.

A file appears under its name only when it is complete and on the disk. Whatever ends a program at
whatever moment, the file that was there before is either still there or replaced by a whole one.
Files are read with ``weights_only=True``: they can hold tensors and plain containers, but no code.
"""

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cremi_eval.atomic import atomic_write
from malis._checks import Offsets, check_offsets
from malis.inference.own_unet import PlainCNN, UNet, load_weights
from malis.training.description import architecture, unwrapped

CHECKPOINT, MODEL = "malis checkpoint 2", "malis model 1"
EARLIER = ("malis checkpoint 1",)  # these cannot be continued any more
NETWORKS = (UNet, PlainCNN)
RENAMED = {"PlainCNN": {"n_affinities": "out_channels"}}  # arguments in files of version 0.1


class Model(NamedTuple):
    """A trained network and what is needed to use it.

    Attributes
    ----------
    network : nn.Module
        In evaluation mode, on the CPU, float32.
    offsets : tuple of tuples
        The edge that each output channel stands for.
    card : dict
        Where it comes from: data, split, steps, scores, licence.
    """

    network: nn.Module
    offsets: tuple[tuple[int, ...], ...]
    card: dict[str, Any]


def save_model(
    path: str | Path,
    network: nn.Module,
    arguments: Mapping[str, Any],
    offsets: Offsets,
    card: Mapping[str, Any] | None = None,
    *,
    half: bool = True,
) -> None:
    """Write a trained network to a small file that `load_model` reads.

    Parameters
    ----------
    path : str or Path
        Where to; a file that is there is replaced.
    network : UNet, PlainCNN or another nn.Module
        The network; of one that was compiled or made data-parallel, what is inside is saved.
    arguments : mapping
        What it was built with: ``type(network)(**arguments)`` must give the same architecture.
    offsets : (C, ndim) integers
        The edge of each output channel.
    card : mapping, optional
        JSON-able facts about the network.
    half : bool
        Store weights as float16: half the size, three significant digits.

    Raises
    ------
    ValueError
        If the arguments build another network, the offsets are not one a channel, or a weight
        does not fit into float16.
    TypeError
        If arguments or card cannot be written as JSON.
    OSError
        If the file cannot be written; an earlier one is then left as it was.
    """
    network = unwrapped(network)
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    content = {
        "kind": MODEL,
        **header(network, arguments, offsets, card),
        "state": {name: _halve(name, value) for name, value in state.items()} if half else state,
    }
    write(path, content)


def header(
    network: nn.Module,
    arguments: Mapping[str, Any],
    offsets: Offsets,
    card: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a file holds of a network besides its weights; see `save_model`."""
    network = unwrapped(network)
    with torch.random.fork_rng([]):
        rebuilt = type(network)(**arguments)
    if architecture(rebuilt) != architecture(network):
        raise ValueError(f"{type(network).__name__}(**{dict(arguments)}) is another architecture")
    offsets = check_offsets(offsets).tolist()
    if len(offsets) != getattr(network, "out_channels", len(offsets)):
        raise ValueError(
            f"{len(offsets)} offsets for a network with {network.out_channels} outputs"
        )
    return {
        "network": type(network).__name__,
        "arguments": _as_json(arguments, "arguments"),
        "offsets": offsets,
        "card": _as_json(card or {}, "card"),
    }


def load_model(path: str | Path, networks: Sequence[type[nn.Module]] = NETWORKS) -> Model:
    """Read a network that `save_model` wrote, or that a checkpoint holds.

    Parameters
    ----------
    path : str or Path
        A model, or the checkpoint of a training that was told how its network is built: all those
        of ``python -m malis train``, and of `malis.training.train` with ``model=...``.
    networks : sequence of nn.Module classes
        The classes that may be built; a file names its class but cannot bring one along.

    Returns
    -------
    Model
        ``network, offsets, card``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, no model, or of a class that is not among `networks`.
    """
    content = read(path, MODEL, CHECKPOINT)
    if content["kind"] == CHECKPOINT:
        if not content["model"]:
            raise ValueError(
                f"{path} is a checkpoint that does not say how its network is built: it can only "
                "be continued, unless malis.training.train gets model=..."
            )
        content = {**content["model"], "state": content["network"]}
    known = {network.__name__: network for network in networks}
    if content["network"] not in known:
        raise ValueError(f"{path} holds a {content['network']}, known are {', '.join(known)}")
    renamed = RENAMED.get(content["network"], {})
    arguments = {renamed.get(name, name): value for name, value in content["arguments"].items()}
    network = load_weights(known[content["network"]](**arguments), content["state"])
    return Model(network.eval(), tuple(map(tuple, content["offsets"])), content["card"])


def validated_threshold(
    card: Mapping[str, Any], linkage: str = "mean", *, views: bool = False
) -> float:
    """Return the threshold of the agglomeration that validation sections chose, or else 0.5.

    The card is that of a model; for the linkage see `malis.segmentation.agglomerate`. With `views`,
    affinities are the mean over all views (`malis.inference.views`); the threshold of single views
    is taken where the card knows no other.
    """
    return float(_validated(card, linkage, views).get("threshold", 0.5))


def validated_inside(
    card: Mapping[str, Any], linkage: str = "mean", *, views: bool = False
) -> float | None:
    """Return the average affinity inside of objects that validation sections chose.

    See `validated_threshold`; None if the card names none: then
    `malis.segmentation.inside_threshold` finds one.
    """
    inside = _validated(card, linkage, views).get("inside")
    return None if inside is None else float(inside)


def validated_absorb(
    card: Mapping[str, Any], linkage: str = "mean", *, views: bool = False, sections: bool = False
) -> int:
    """Return below how many voxels validation lets regions join a neighbour, or else 0.

    See `validated_threshold`, and `malis.segment` for what is absorbed. A size is one of volumes:
    for `sections` that are segmented on their own it is 0.
    """
    return 0 if sections else int(_validated(card, linkage, views).get("absorb", 0))


def _validated(card: Mapping[str, Any], linkage: str, views: bool) -> Mapping[str, Any]:
    """Return what a card says about the agglomeration of a linkage, or nothing."""
    scores = card.get("scores", {})
    names = [f"{linkage}_linkage", "agglomeration"]
    names = [f"views_{name}" for name in names if views] + names
    return next((scores[name] for name in names if name in scores), {})


def write(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain containers to a file, completely or not at all.

    `content` has the entry ``kind``, by which `read` knows the file; NumPy's numbers become
    Python's. An OSError if the file cannot be written, a TypeError if `read` would refuse it.
    """
    buffer = io.BytesIO()
    torch.save(_plain(content), buffer)
    data = buffer.getvalue()  # in Python 3.12.1, an error that holds `getbuffer` ends in a crash
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except pickle.UnpicklingError as error:
        raise TypeError(
            f"{path} would hold more than tensors, numbers, texts and containers of them, and "
            "could not be read again"
        ) from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read(path: str | Path, *kinds: str) -> dict[str, Any]:
    """Read a file of one of some kinds that `write` wrote, tensors onto the CPU.

    A FileNotFoundError if there is none, a ValueError if it is damaged or of another kind.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    data = io.BytesIO(Path(path).read_bytes())
    try:
        content = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} is damaged, or was not written by malis") from error
    found = content.get("kind") if isinstance(content, dict) else None
    if found in EARLIER:
        raise ValueError(
            f"{path} is a checkpoint of an earlier version, which this one cannot use: begin anew, "
            "or finish the training with that version"
        )
    if found not in kinds:
        wanted = " or ".join(map(repr, kinds))
        raise ValueError(f"{path} should be a {wanted} file, but is {found or 'something else'!r}")
    return content


def _plain(value: Any) -> Any:
    """Replace NumPy's numbers in nested containers, and keep the rest."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(one) for one in value)
    return value


def _as_json(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} cannot be written as JSON: {error}") from error


def _halve(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all():
        raise ValueError(f"{name} does not fit into float16 (largest value {value.abs().max():g})")
    return half
