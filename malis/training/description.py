"""What a thing is, as plain values: by them a checkpoint knows its training again.

A description is made of numbers, texts, lists and dictionaries, so that it can be kept in a file
and compared years later: numbers are compared as numbers, and what a library prints plays no part.
"""

import enum
import functools
import inspect
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALL = 64  # numbers of an array that are written down one by one; of a larger one, a checksum


def describe(thing: Any) -> Any:
    """Write down what a loss, dataset, optimiser or learning rate is.

    Parameters
    ----------
    thing : object
        Plain values stand for themselves, arrays for their numbers, classes and functions for
        their name. Every other object is its class and those arguments of its constructor that it
        keeps as attributes of their names. A module is also its parts, and a module that does not
        keep all arguments is known by all of its public attributes.

    Returns
    -------
    None, bool, int, float, str, list or dict
        Equal for things that are built alike, in every process.

    Examples
    --------
    >>> describe(CosineDecay(0.1, 50))
    {'class': 'CosineDecay', 'peak': 0.1, 'steps': 50, 'done': 0}
    """
    return _Describer().value(thing)


def architecture(network: nn.Module) -> Any:
    """Describe a network without the values of its weights: equal ones can exchange them."""
    return _Describer(weights=False).value(unwrapped(network))


def known_by_name(thing: Any) -> list[str]:
    """List the functions and objects in a thing of which `describe` does not know everything."""
    describer = _Describer()
    describer.value(thing)
    return describer.names


def differences(was: Any, now: Any, name: str) -> Iterator[str]:
    """Say what differs between two descriptions of what has a name.

    Yields
    ------
    str
        ``"loss.weights.0 was 1.0, is 2.0"``
    """
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        was, now = dict(enumerate(was)), dict(enumerate(now))
    if isinstance(was, dict) and isinstance(now, dict) and was.get("class") == now.get("class"):
        for key in was | now:
            yield from differences(was.get(key), now.get(key), f"{name}.{key}")
    elif was != now:
        yield f"{name} was {_short(was)}, is {_short(now)}"


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside of what `torch.compile` or a data-parallel wrapper made of it."""
    while True:
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod
        else:
            return network


class _Describer:
    """Describes one thing; `names` lists the parts that it does not know everything about."""

    def __init__(self, *, weights: bool = True) -> None:
        self.weights = weights
        self.names: list[str] = []
        self.around: list[int] = []  # what is being described, against circles

    def value(self, thing: Any) -> Any:
        if isinstance(thing, np.generic):
            thing = thing.item()
        if isinstance(thing, float) and math.isnan(thing):
            return "nan"  # which would differ from itself
        if thing is None or type(thing) in (bool, int, float, str):
            return thing
        if isinstance(thing, Tensor | np.ndarray):
            return self._array(thing)
        if isinstance(thing, Mapping):
            return {str(key): self.value(value) for key, value in thing.items()}
        if isinstance(thing, list | tuple):
            return [self.value(value) for value in thing]
        if isinstance(thing, set | frozenset):
            return sorted((self.value(value) for value in thing), key=str)
        if isinstance(thing, enum.Enum | range | slice | Path | torch.device | torch.dtype):
            return str(thing)
        if isinstance(thing, type):
            return thing.__qualname__
        if isinstance(thing, functools.partial):
            parts = {"function": thing.func, "arguments": thing.args, "keywords": thing.keywords}
            return {"class": "partial", **self.value(parts)}
        if inspect.isroutine(thing) or not hasattr(thing, "__dict__"):
            self.names.append(getattr(thing, "__qualname__", type(thing).__qualname__))
            return self.names[-1]
        return self._object(thing)

    def _object(self, thing: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"class": type(thing).__qualname__}
        if id(thing) in self.around:
            return found
        self.around.append(id(thing))
        found |= {name: self.value(value) for name, value in self._settings(thing).items()}
        if isinstance(thing, nn.Module):
            tensors = [*thing.named_parameters(recurse=False), *thing.named_buffers(recurse=False)]
            found |= {name: self._array(value, self.weights) for name, value in tensors}
            found |= {name: self.value(part) for name, part in thing.named_children()}
        self.around.pop()
        return found

    def _settings(self, thing: Any) -> dict[str, Any]:
        """Return the arguments that an object was made with, as far as it tells."""
        arguments, attributes = _arguments(type(thing)), vars(thing)
        kept = {name: attributes[name] for name in arguments if name in attributes}
        if type(thing).__module__.startswith("torch.nn."):
            # Another PyTorch may have more arguments; they then have their default.
            return {n: v for n, v in kept.items() if self.value(v) != self.value(arguments[n])}
        if kept and len(kept) == len(arguments):
            return kept
        if isinstance(thing, nn.Module):
            public = (name for name in attributes if not name.startswith("_"))
            return {name: attributes[name] for name in public if name != "training"}
        if arguments:
            self.names.append(type(thing).__qualname__)
        return kept

    def _array(self, array: Tensor | np.ndarray, values: bool = True) -> Any:
        if values and math.prod(array.shape) <= SMALL:
            return self.value(array.tolist())
        facts = {"shape": list(array.shape), "dtype": str(array.dtype).removeprefix("torch.")}
        return facts | ({"crc32": f"{_checksum(array):08x}"} if values else {})


def _arguments(cls: type) -> dict[str, Any]:
    """Return the arguments of a constructor with their defaults."""
    try:
        arguments = inspect.signature(cls).parameters.values()
    except ValueError:  # some classes written in C have none
        return {}
    return {one.name: one.default for one in arguments if one.kind != one.VAR_KEYWORD}


def _checksum(array: Tensor | np.ndarray) -> int:
    """Compute the CRC-32 of an array, part by part lest the whole be copied."""
    value = 0
    for part in array if array.ndim > 1 else [array]:
        if isinstance(part, Tensor):
            part = part.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(np.ascontiguousarray(part), value)
    return value


def _short(value: Any) -> str:
    text = value["class"] if isinstance(value, dict) and "class" in value else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
