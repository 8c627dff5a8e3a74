"""The U-Net in two and three dimensions, its sizes, and the loading of its checkpoints."""

from unet.geometry import Geometry, output_size, unet_geometry
from unet.model import UNet
from unet.network import FullyConvolutional
from unet.plain import PlainCNN
from unet.weights import load_weights

__all__ = [
    "FullyConvolutional",
    "Geometry",
    "PlainCNN",
    "UNet",
    "load_weights",
    "output_size",
    "unet_geometry",
]
