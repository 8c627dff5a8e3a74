"""What `torch.compile` runs as it is: trees and tables of NumPy and Higra are nothing to trace."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncompiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let `torch.compile` call a function without looking into it.

    This is `torch.compiler.disable` without the second that it takes to import the compiler, which
    is only imported where something is compiled.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
        Does the same.
    """

    @functools.wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called
