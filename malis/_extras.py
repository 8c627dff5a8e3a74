"""Packages that belong to an extra of the installation, imported where they are needed.

If such a package is missing, the error names the extra of pyproject.toml that brings it.
"""

import importlib
from types import ModuleType


def extra_package(name: str, extra: str) -> ModuleType:
    """Import a package that an extra brings.

    Parameters
    ----------
    name : str
        Of the module, for instance "zarr" or "dask.utils".
    extra : str
        Of pyproject.toml, for instance "scale".

    Returns
    -------
    module

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed; the message says which extra brings it.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"this needs {package}, which the extra [{extra}] brings: "
            f'pip install ".[{extra}]" in a clone of the repository',
            name=package,
        ) from error
    return importlib.import_module(name)
