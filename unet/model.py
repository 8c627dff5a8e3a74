"""The U-Net, in two and three dimensions.

The network of Ronneberger et al. (2015) as jvanvugt/pytorch-unet (MIT licence) builds it: its
checkpoints load here, and ours load there. Pooling and kernels may differ from level to level and
from axis to axis, for volumes whose sections are thicker than their pixels are wide.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .geometry import Size, levels, unet_geometry
from .network import FullyConvolutional

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_UPCONV = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class UNet(FullyConvolutional):
    """U-Net: a path down that widens the context, a path up that restores the place.

    The arguments up to ``up_mode``, the ``state_dict`` and the outputs are those of
    jvanvugt/pytorch-unet; the defaults are the network of the paper.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    n_classes : int
        Channels of the output, for affinities one per offset.
    depth : int
        Number of levels; there are ``depth - 1`` poolings.
    wf : int
        The first level has ``2**wf`` feature maps, every further one twice as many.
    padding : bool
        Pad the convolutions with zeros, so that the output is as large as the input. The values
        near the border then depend on zeros that are not tissue.
    batch_norm : bool
        Batch normalisation after every activation.
    up_mode : {"upconv", "upsample"}
        Transposed convolution, or linear interpolation and a 1x1 convolution.
    ndim : {2, 3}
        Spatial axes.
    pool_sizes : sequence of int or (ndim,) tuples, optional
        Max-pooling of the ``depth - 1`` steps down; 2 by default. ``(1, 2, 2)`` leaves z alone.
    kernel_sizes : sequence of int or (ndim,) tuples, optional
        Odd kernel sizes of the ``depth`` levels; 3 by default. ``(1, 3, 3)`` looks at one section.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    An input must divide: no pooling may leave a row over (`output_size` says which sizes do).
    Other sizes are an error in training mode, where labels have to lie on the output. In
    evaluation mode they give a warning and the reference's output, which is that of
    the next smaller size with its halves shifted against each other by up to a few voxels.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation.
    MICCAI 2015. https://github.com/jvanvugt/pytorch-unet
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        depth: int = 5,
        wf: int = 6,
        padding: bool = False,
        batch_norm: bool = False,
        up_mode: str = "upconv",
        *,
        ndim: int = 2,
        pool_sizes: Sequence[Size] | None = None,
        kernel_sizes: Sequence[Size] | None = None,
    ) -> None:
        if up_mode not in ("upconv", "upsample"):
            raise ValueError(f'up_mode must be "upconv" or "upsample", got {up_mode!r}')
        if wf < 0:
            raise ValueError(f"wf must be at least 0, got {wf}")
        pools, kernels = levels(depth, ndim, pool_sizes, kernel_sizes)
        geometry = unet_geometry(
            depth, padding, up_mode, ndim=ndim, pool_sizes=pools, kernel_sizes=kernels
        )
        super().__init__(ndim, in_channels, n_classes, geometry)
        self.depth = depth
        self.padding = padding

        widths = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(
            ConvBlock(below, width, kernel, padding, batch_norm)
            for below, width, kernel in zip([in_channels, *widths], widths, kernels, strict=False)
        )
        self.pools = nn.ModuleList(_POOL[ndim](pool) for pool in pools)
        self.up_path = nn.ModuleList(
            UpBlock(
                widths[level + 1], widths[level], pools[level], kernels[level],
                padding, batch_norm, up_mode,
            )
            for level in reversed(range(depth - 1))
        )  # fmt: skip
        self.last = _CONV[ndim](widths[0], n_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits.

        Parameters
        ----------
        x : (B, in_channels, *spatial) float tensor

        Returns
        -------
        (B, n_classes, *output_size(spatial)) float tensor
            Logits; the affinities are their sigmoid.

        Raises
        ------
        ValueError
            If the axes or channels differ from the network's, or the size does not fit.
        """
        self.check_input(x)
        bridges = []
        for block, pool in zip(self.down_path, self.pools, strict=False):
            x = block(x)
            bridges.append(x)
            x = pool(x)
        x = self.down_path[-1](x)
        for block, bridge in zip(self.up_path, reversed(bridges), strict=True):
            x = block(x, bridge)
        return self.last(x)


class ConvBlock(nn.Module):
    """Two convolutions, each with ReLU and, after it, batch normalisation where asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        padding: bool,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        ndim = len(kernel)
        pad = tuple(k // 2 for k in kernel) if padding else 0
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [_CONV[ndim](channels, out_channels, kernel, padding=pad), nn.ReLU()]
            if batch_norm:
                layers.append(_NORM[ndim](out_channels))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a (B, in_channels, *spatial) tensor."""
        return self.block(x)


class UpBlock(nn.Module):
    """One step up: enlarge, put the cropped features of the way down beside it, convolve."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pool: tuple[int, ...],
        kernel: tuple[int, ...],
        padding: bool,
        batch_norm: bool,
        up_mode: str,
    ) -> None:
        super().__init__()
        ndim = len(pool)
        if up_mode == "upconv":
            self.up = _UPCONV[ndim](in_channels, out_channels, kernel_size=pool, stride=pool)
        else:
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=pool, mode=_INTERPOLATION[ndim], align_corners=False),
                _CONV[ndim](in_channels, out_channels, kernel_size=1),
            )
        self.conv_block = ConvBlock(in_channels, out_channels, kernel, padding, batch_norm)

    def forward(self, x: Tensor, bridge: Tensor) -> Tensor:
        """Join a (B, in_channels, *coarse) tensor and the bridge of the same level."""
        x = self.up(x)
        return self.conv_block(torch.cat([x, centre_crop(bridge, x.shape[2:])], dim=1))


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the centre of the given spatial size out of a (B, C, *spatial) tensor."""
    for axis, wanted in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - wanted) // 2, wanted)
    return x
