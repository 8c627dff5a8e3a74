"""Packages that only volumes larger than memory need."""

import importlib
from types import ModuleType


def scale_package(name: str) -> ModuleType:
    """Import a package of ``requirements-scale.txt``.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".", maxsplit=1)[0]:
            raise
        raise ModuleNotFoundError(
            f"this needs the package {name}: pip install -r requirements-scale.txt", name=name
        ) from error
