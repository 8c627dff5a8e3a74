"""The package `unet` that came with `malis`, whatever else goes by that name.

Many projects of the field have a file or a folder `unet` of their own. Beside one, ``import unet``
finds it instead of the package that is installed with `malis`, which is then loaded from its place.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

OURS = Path(__file__).resolve().parents[2] / "unet" / "__init__.py"


def own_unet() -> ModuleType:
    """Import the package, without running another module of its name.

    Returns
    -------
    module
        `unet`, or the same package under a name within `malis` if another `unet` comes first.

    Raises
    ------
    ImportError
        If the package does not lie beside `malis`; the message names what was found instead.
    """
    loaded = "unet" in sys.modules
    spec = sys.modules["unet"].__spec__ if loaded else importlib.util.find_spec("unet")
    if spec and spec.origin and Path(spec.origin).resolve() == OURS:
        return importlib.import_module("unet")
    if not OURS.exists():
        found = f", but {spec.origin or spec.name} comes first" if spec else ""
        raise ImportError(f"malis needs the package unet that is installed with it{found}")
    name = f"{__package__}.own_unet.unet"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, OURS, submodule_search_locations=[str(OURS.parent)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_unet = own_unet()
FullyConvolutional, PlainCNN, UNet = _unet.FullyConvolutional, _unet.PlainCNN, _unet.UNet
Geometry, Size, per_axis = _unet.Geometry, _unet.geometry.Size, _unet.geometry.per_axis
load_weights = _unet.load_weights

__all__ = [
    "FullyConvolutional",
    "Geometry",
    "PlainCNN",
    "Size",
    "UNet",
    "load_weights",
    "per_axis",
]
