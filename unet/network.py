"""What every network here says about itself, so that training and inference treat all alike."""

import warnings

from torch import Tensor, nn

from .geometry import Geometry, Size


class FullyConvolutional(nn.Module):
    """Base of networks that map (B, in_channels, *spatial) to (B, out_channels, *smaller) logits.

    Parameters
    ----------
    ndim : {2, 3}
        Spatial axes.
    in_channels, out_channels : int
        Channels of input and output.
    geometry : Geometry
        Stride, crop, context, field of view and smallest input, per axis.
    """

    def __init__(self, ndim: int, in_channels: int, out_channels: int, geometry: Geometry) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"channels must be positive, got {in_channels} and {out_channels}")
        self.ndim = ndim
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.geometry = geometry

    def output_size(self, spatial: Size) -> tuple[int, ...]:
        """Tell the spatial size of the output; see `Geometry.output_size`."""
        return self.geometry.output_size(spatial)

    def input_size_for(self, spatial: Size) -> tuple[int, ...]:
        """Tell the smallest input whose output covers ``spatial``."""
        return self.geometry.input_size_for(spatial)

    def check_input(self, x: Tensor) -> None:
        """Raise `ValueError` unless the network accepts ``x``.

        A size that does not divide is an error in training mode and a warning in evaluation mode.
        """
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels:
            axes = "y, x" if self.ndim == 2 else "z, y, x"
            raise ValueError(
                f"input must have shape (B, {self.in_channels}, {axes}), got {tuple(x.shape)}"
            )
        size = tuple(x.shape[2:])
        if self.training:
            self.geometry.output_size(size)
        elif self.geometry.floor(size) != size:
            message = f"{self.geometry.misfit(size)}; the output is cropped and not centred"
            warnings.warn(message, stacklevel=5)
