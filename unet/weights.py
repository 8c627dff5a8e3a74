"""Loading weights from checkpoints, ours and those of other projects."""

import os
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_WRAPPERS = ("model_state_dict", "state_dict", "model")


def load_weights(net: nn.Module, source: str | os.PathLike | Mapping) -> nn.Module:
    """Load a checkpoint into a network of the same architecture.

    The weights may lie in the file as they are or under ``model_state_dict``, ``state_dict`` or
    ``model``, and every name may carry a prefix, such as ``0.`` of a network that was saved inside
    ``nn.Sequential(net, nn.Sigmoid())`` or ``module.`` of `nn.DataParallel`. Half precision is
    widened to the network's own. A file can hold tensors and plain containers only; it cannot
    run code.

    Parameters
    ----------
    net : nn.Module
        Network whose weights are replaced; left as it was if anything does not fit.
    source : path or mapping
        File that `torch.save` wrote, or its content.

    Returns
    -------
    nn.Module
        ``net`` itself.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a checkpoint, or belongs to another architecture; the message names the
        first weight that differs.
    """
    where = "the mapping" if isinstance(source, Mapping) else os.fspath(source)
    content = source if isinstance(source, Mapping) else _read(source)
    state = _strip_prefix(_unwrap(content, where), net)
    _check(state, net.state_dict(), where)
    net.load_state_dict(state)
    return net


def _read(path: str | os.PathLike) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{os.fspath(path)} is not a checkpoint of plain tensors") from error


def _unwrap(content: object, where: str) -> dict[str, Tensor]:
    """Find the mapping of names to tensors."""
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if name in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    is_state = isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())
    if not is_state or not content:
        raise ValueError(f"{where} holds no weights, neither directly nor under {_WRAPPERS}")
    return dict(content)


def _strip_prefix(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Remove leading name parts that all weights share and the network does not know."""
    own = {name.split(".")[0] for name in net.state_dict()}
    while True:
        heads = {name.partition(".")[0] for name in state}
        if len(heads) != 1 or heads & own or not all("." in name for name in state):
            return state
        state = {name.partition(".")[2]: value for name, value in state.items()}


def _check(state: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Compare names and shapes in the network's order."""
    for name, tensor in expected.items():
        if name not in state:
            raise ValueError(f"{where} belongs to another architecture: it lacks {name}")
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{where} belongs to another architecture: {name} has shape "
                f"{tuple(state[name].shape)}, the network's has {tuple(tensor.shape)}"
            )
    for name in state:
        if name not in expected:
            raise ValueError(f"{where} belongs to another architecture: the network has no {name}")
