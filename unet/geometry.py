"""Sizes: what goes into a network, what comes out, and which input voxels an output voxel reads.

Every axis is treated on its own, by four numbers. A network accepts the sizes ``smallest``,
``smallest + stride``, ``smallest + 2 stride``, ...; its output has lost ``crop`` voxels on each
side. Inference from tiles rests on ``context``: in a tile that starts on a multiple of
``stride``, an output voxel at least ``context`` voxels away from the tile's edge has the value that
it has in the whole volume.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

Size = int | Sequence[int]


@dataclass(frozen=True)
class Geometry:
    """The sizes of a fully convolutional network; each field holds one number per axis.

    Attributes
    ----------
    stride : tuple of int
        Product of the pooling factors: shifting the input by it shifts the output by as much.
    crop : tuple of int
        Voxels that the output lacks on each side of the input; 0 with padded convolutions.
    context : tuple of int
        Least distance from the edge of an aligned input at which an output voxel does not depend on
        that edge; at least ``crop``.
    field_of_view : tuple of int
        Input voxels, from the first to the last, that one output voxel reads.
    smallest : tuple of int
        The smallest input.
    """

    stride: tuple[int, ...]
    crop: tuple[int, ...]
    context: tuple[int, ...]
    field_of_view: tuple[int, ...]
    smallest: tuple[int, ...]

    def output_size(self, input_size: Size) -> tuple[int, ...]:
        """Tell the spatial size of the output.

        Parameters
        ----------
        input_size : int or sequence of int
            Spatial size of the input, one number for all axes or one per axis.

        Returns
        -------
        tuple of int
            ``input_size - 2 crop``.

        Raises
        ------
        ValueError
            If an axis is too small, or does not divide: somewhere on the way down the pooling would
            drop a row, and the two halves of the network would no longer align.
        """
        size = per_axis(input_size, len(self.stride), "input_size")
        if self.floor(size) != size:
            raise ValueError(self.misfit(size))
        return tuple(n - 2 * c for n, c in zip(size, self.crop, strict=True))

    def floor(self, size: Size) -> tuple[int, ...]:
        """Round a size down to the next one that the network accepts.

        Raises
        ------
        ValueError
            If an axis is smaller than ``smallest``.
        """
        size = per_axis(size, len(self.stride), "size")
        if any(n < least for n, least in zip(size, self.smallest, strict=True)):
            raise ValueError(
                f"input of size {size} is too small: the network needs at least {self.smallest}"
            )
        return tuple(n - (n - s) % p for n, s, p in self._axes(size))

    def ceil(self, size: Size) -> tuple[int, ...]:
        """Round a size up to the next one that the network accepts."""
        size = per_axis(size, len(self.stride), "size")
        return tuple(max(s, n + (s - n) % p) for n, s, p in self._axes(size))

    def input_size_for(self, output_size: Size) -> tuple[int, ...]:
        """Tell the smallest input whose output covers ``output_size``.

        Parameters
        ----------
        output_size : int or sequence of int
            Spatial size that the output should have at least.

        Returns
        -------
        tuple of int
            An accepted input size; its output may be up to ``stride - 1`` voxels larger.
        """
        wanted = per_axis(output_size, len(self.stride), "output_size")
        return self.ceil(tuple(n + 2 * c for n, c in zip(wanted, self.crop, strict=True)))

    def misfit(self, size: Size) -> str:
        """Say in a sentence which sizes would have divided instead of ``size``."""
        return (
            f"input of size {per_axis(size, len(self.stride), 'size')} does not divide by the "
            f"pooling of the network; the nearest sizes that do are {self.floor(size)} and "
            f"{self.ceil(size)}"
        )

    def _axes(self, size: tuple[int, ...]) -> zip:
        return zip(size, self.smallest, self.stride, strict=True)


def plain_geometry(kernel_sizes: Sequence[Sequence[int]]) -> Geometry:
    """Describe a chain of valid convolutions without pooling.

    Parameters
    ----------
    kernel_sizes : sequence of (ndim,) sequences of int
        The odd kernel size of every layer.

    Returns
    -------
    Geometry
        With stride 1 and ``crop = context = sum of (kernel - 1) / 2``.
    """
    reach = tuple(sum(k - 1 for k in axis) for axis in zip(*kernel_sizes, strict=True))
    half = tuple(r // 2 for r in reach)
    view = tuple(r + 1 for r in reach)
    return Geometry((1,) * len(reach), half, half, view, view)


def unet_geometry(
    depth: int = 5,
    padding: bool = False,
    up_mode: str = "upconv",
    *,
    ndim: int = 2,
    pool_sizes: Sequence[Size] | None = None,
    kernel_sizes: Sequence[Size] | None = None,
) -> Geometry:
    """Describe a U-Net without building it; the parameters are those of `unet.UNet`.

    A voxel of level i is ``P_i = pool_0 ... pool_(i-1)`` input voxels wide. Two valid convolutions
    cost it ``c_i = 2 (kernel_i - 1)`` of its voxels, on the way down and, but for the bottom, again
    on the way up: ``2 crop = 2 sum_(i < bottom) c_i P_i + c_bottom P_bottom`` input voxels. In the
    original network (depth 5, 3x3 kernels) that is 184, which turns 572 into 388.

    Returns
    -------
    Geometry

    Raises
    ------
    ValueError
        If a parameter is out of range or a list does not have one entry per level.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net. MICCAI 2015, figure 1.
    """
    pools, kernels = levels(depth, ndim, pool_sizes, kernel_sizes)
    axes = [
        _unet_axis([k[axis] for k in kernels], [p[axis] for p in pools], padding, up_mode)
        for axis in range(ndim)
    ]
    return Geometry(*zip(*axes, strict=True))


def output_size(
    input_size: Size,
    depth: int = 5,
    padding: bool = False,
    **architecture: object,
) -> tuple[int, ...]:
    """Tell the spatial size of a U-Net's output: ``output_size(572) == (388, 388)``.

    Parameters
    ----------
    input_size : int or sequence of int
        Spatial size of the input.
    depth, padding, **architecture
        As for `unet.UNet`; what does not change a size is left out.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If the input is too small or does not divide.
    """
    return unet_geometry(depth, padding, **architecture).output_size(input_size)


def _unet_axis(
    kernels: list[int], pools: list[int], padding: bool, up_mode: str
) -> tuple[int, int, int, int, int]:
    """Return stride, crop, context, field of view and smallest input of one axis."""
    strides = [math.prod(pools[:level]) for level in range(len(kernels))]
    stride = strides[-1]
    if padding:
        crop, smallest = 0, stride
    else:
        costs = [2 * (k - 1) * p for k, p in zip(kernels, strides, strict=True)]
        down = sum(costs[:-1])
        crop = down + costs[-1] // 2
        # Every pooling divides when input - down is a multiple of stride; the output is at least 1.
        smallest = 2 * crop + ((-down) % stride or stride)

    def reads(voxel: int) -> tuple[int, int]:
        return _reads(voxel, kernels, pools, padding, up_mode)

    margin = 0
    while reads(margin)[0] < 0:  # still feels the edge at input voxel 0
        margin += 1
    spans = [reads(voxel) for voxel in range(margin, margin + stride)]
    field_of_view = max(last - first + 1 for first, last in spans)
    return stride, crop, crop + margin, field_of_view, smallest


def _reads(
    voxel: int, kernels: list[int], pools: list[int], padding: bool, up_mode: str
) -> tuple[int, int]:
    """Return the first and last input voxel that an output voxel reads, from the top back down.

    A first voxel below 0 means that padding, or the edge rule of the interpolation, stands in.
    """
    first, last = voxel, voxel

    def convolve(first: int, last: int, kernel: int) -> tuple[int, int]:
        reach = 2 * (kernel - 1)  # two convolutions
        return (first - reach // 2, last + reach // 2) if padding else (first, last + reach)

    for kernel, pool in zip(kernels, pools, strict=False):  # the way up, walked backwards
        first, last = convolve(first, last, kernel)
        if up_mode == "upsample":  # fine voxel v lies at (v + 1/2) / pool - 1/2 among coarse ones
            first = (2 * first + 1 - pool) // (2 * pool)
            last = -((pool - 1 - 2 * last) // (2 * pool))
        else:
            first, last = first // pool, last // pool
    first, last = convolve(first, last, kernels[-1])
    for kernel, pool in zip(reversed(kernels[:-1]), reversed(pools), strict=True):
        first, last = convolve(first * pool, last * pool + pool - 1, kernel)
    return first, last


def levels(
    depth: int,
    ndim: int,
    pool_sizes: Sequence[Size] | None,
    kernel_sizes: Sequence[Size] | None,
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Spell out the pooling (``depth - 1`` entries) and the kernels (``depth`` entries) of levels.

    Raises
    ------
    ValueError
        If depth or ndim is out of range, a list has another length, or a number is not allowed.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    if ndim not in (2, 3):
        raise ValueError(f"ndim must be 2 or 3, got {ndim}")
    pools = [2] * (depth - 1) if pool_sizes is None else list(pool_sizes)
    kernels = [3] * depth if kernel_sizes is None else list(kernel_sizes)
    if len(pools) != depth - 1:
        raise ValueError(f"pool_sizes needs {depth - 1} entries (depth - 1), got {len(pools)}")
    if len(kernels) != depth:
        raise ValueError(f"kernel_sizes needs {depth} entries (depth), got {len(kernels)}")
    pools = [per_axis(pool, ndim, "a pool size") for pool in pools]
    kernels = [per_axis(kernel, ndim, "a kernel size") for kernel in kernels]
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise ValueError(f"kernel sizes must be odd, so that they have a centre, got {kernels}")
    return pools, kernels


def per_axis(size: Size, ndim: int, name: str) -> tuple[int, ...]:
    """Spell out a size, one number for all axes or one per axis, as a tuple.

    Raises
    ------
    ValueError
        If the number of axes differs from ndim or a number is below 1.
    """
    size = (size,) * ndim if isinstance(size, Integral) else size
    size = tuple(int(n) for n in size)
    if len(size) != ndim or min(size) < 1:
        raise ValueError(f"{name} must be {ndim} positive numbers or one, got {size}")
    return size
