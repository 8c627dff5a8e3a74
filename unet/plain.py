"""The plain convolutional network of the 2009 experiments."""

from collections.abc import Sequence

from torch import Tensor, nn

from .geometry import Size, per_axis, plain_geometry
from .network import FullyConvolutional

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class PlainCNN(FullyConvolutional):
    """A few layers of valid convolutions with sigmoid units, and one output map per offset.

    The defaults with ``ndim=3, out_channels=3`` are the network of Turaga et al. (2009): four
    layers of 5x5x5 filters with five feature maps between them, so that each affinity is judged
    from 17x17x17 voxels, by fewer than ten thousand weights.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    out_channels : int
        Channels of the output, one per offset.
    ndim : {2, 3}
        Spatial axes.
    n_layers : int
        Layers of convolutions, the output's included.
    features : int or sequence of int
        Feature maps of the ``n_layers - 1`` hidden layers.
    kernel_size : int or (ndim,) sequence of int
        Odd size of the filters.
    activation : {"tanh", "sigmoid", "relu"}
        Units of the hidden layers. The paper's logistic function is "sigmoid"; "tanh" is the same
        curve, shifted and scaled to be odd, and starts to learn much sooner.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Turaga, Briggman, Helmstaedter, Denk, Seung: Maximin affinity learning of image segmentation.
    NIPS 2009. Turaga et al.: Convolutional networks can learn to generate affinity graphs for image
    segmentation. Neural Computation 22(2), 2010.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        ndim: int = 2,
        n_layers: int = 4,
        features: int | Sequence[int] = 5,
        kernel_size: Size = 5,
        *,
        activation: str = "tanh",
    ) -> None:
        if ndim not in _CONV:
            raise ValueError(f"ndim must be 2 or 3, got {ndim}")
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        hidden = [features] * (n_layers - 1) if isinstance(features, int) else list(features)
        if len(hidden) != n_layers - 1:
            raise ValueError(
                f"features needs {n_layers - 1} entries (n_layers - 1), got {len(hidden)}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        kernel = per_axis(kernel_size, ndim, "kernel_size")
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"kernel_size must be odd, so that it has a centre, got {kernel}")
        super().__init__(ndim, in_channels, out_channels, plain_geometry([kernel] * n_layers))

        layers: list[nn.Module] = []
        for below, width in zip([in_channels, *hidden], hidden, strict=False):
            layers += [_CONV[ndim](below, width, kernel), ACTIVATIONS[activation]()]
        layers.append(_CONV[ndim]([in_channels, *hidden][-1], out_channels, kernel))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits.

        Parameters
        ----------
        x : (B, in_channels, *spatial) float tensor

        Returns
        -------
        (B, out_channels, *output_size(spatial)) float tensor
            Logits; the affinities are their sigmoid.

        Raises
        ------
        ValueError
            If the axes or channels differ from the network's, or the input is too small.
        """
        self.check_input(x)
        return self.layers(x)
