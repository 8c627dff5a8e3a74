"""The U-Net in two and three dimensions, its sizes, and the loading of its checkpoints."""

from .geometry import Geometry, output_size, unet_geometry
from .model import UNet
from .network import FullyConvolutional
from .plain import PlainCNN
from .weights import load_weights

__all__ = [
    "FullyConvolutional",
    "Geometry",
    "PlainCNN",
    "UNet",
    "load_weights",
    "output_size",
    "unet_geometry",
]
