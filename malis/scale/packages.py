"""The packages of the extra ``scale``, imported where they are used."""

from types import ModuleType

from malis._extras import extra_package


def scale_package(name: str) -> ModuleType:
    """Import a package of the extra ``scale``; see `malis._extras.extra_package`."""
    return extra_package(name, "scale")
