import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet import UNet, output_size, unet_geometry


def linear_unet(**architecture):
    """A U-Net in which every output voxel depends on all that it reads: no weight is negative."""
    net = UNet(wf=0, n_classes=1, **architecture).double().eval()
    pools = [nn.AvgPool2d(pool.kernel_size) for pool in net.pools]
    net.pools = nn.ModuleList(pools)
    for name, parameter in net.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return net


def test_the_sizes_of_the_paper():
    assert output_size(572) == (388, 388)
    assert output_size((572, 188)) == (388, 4)
    assert unet_geometry().crop == (92, 92)


def test_one_level_by_hand():
    # 3x3 twice down (8 -> 4), pool (2), 1x1 twice at the bottom, up (4), 1x1 and last: 4
    geometry = unet_geometry(2, kernel_sizes=[3, 1])
    assert geometry.output_size(16) == (8, 8)
    assert (geometry.crop, geometry.stride, geometry.smallest) == ((4, 4), (2, 2), (10, 10))


def test_the_networks_of_the_large_scale_paper():
    # Funke et al. 2019, figure 3: 84 x 268 x 268 in, 56 x 56 x 56 out, pooling (1, 3, 3)
    assert output_size((84, 268, 268), 4, ndim=3, pool_sizes=[(1, 3, 3)] * 3) == (56, 56, 56)


def test_sizes_round_to_what_divides():
    geometry = unet_geometry(3)
    assert geometry.floor(91) == (88, 88)
    assert geometry.ceil(89) == (92, 92)
    assert geometry.ceil(1) == geometry.smallest == (44, 44)
    assert geometry.input_size_for(50) == (92, 92)
    assert geometry.output_size(92) == (52, 52)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (43, r"\(43, 43\) is too small: the network needs at least \(44, 44\)"),
        ((44, 50), r"\(44, 50\) does not divide .* are \(44, 48\) and \(44, 52\)"),
        ((44, 44, 44), "must be 2 positive numbers"),
        ((0, 44), "must be 2 positive numbers"),
    ],
)
def test_sizes_that_do_not_fit_are_named(size, message):
    with pytest.raises(ValueError, match=message):
        unet_geometry(3).output_size(size)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"ndim": 4}, "ndim must be 2 or 3"),
        ({"pool_sizes": [2]}, r"pool_sizes needs 2 entries \(depth - 1\), got 1"),
        ({"kernel_sizes": [3, 3]}, r"kernel_sizes needs 3 entries \(depth\), got 2"),
        ({"kernel_sizes": [3, 2, 3]}, "odd"),
        ({"pool_sizes": [(1, 2, 2), 2]}, "a pool size must be 2 positive numbers"),
        ({"pool_sizes": [0, 2]}, "a pool size must be 2 positive numbers"),
    ],
)
def test_architectures_that_do_not_exist(architecture, message):
    with pytest.raises(ValueError, match=message):
        unet_geometry(**{"depth": 3, **architecture})


architectures = st.integers(1, 3).flatmap(
    lambda depth: st.fixed_dictionaries(
        {
            "depth": st.just(depth),
            "padding": st.booleans(),
            "up_mode": st.sampled_from(["upconv", "upsample"]),
            "pool_sizes": st.lists(
                st.sampled_from([1, 2, 3]), min_size=depth - 1, max_size=depth - 1
            ),
            "kernel_sizes": st.lists(st.sampled_from([1, 3, 5]), min_size=depth, max_size=depth),
        }
    )
)


@given(architectures, st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_geometry_agrees_with_the_network_it_describes(architecture, more):
    net = linear_unet(**architecture)
    g = net.geometry
    stride, margin = g.stride[0], g.context[0] - g.crop[0]
    size = g.ceil(2 * g.context[0] + (2 + more) * stride)[0]
    shift = -(-g.context[0] // stride) * stride
    torch.manual_seed(more)
    volume = torch.rand(1, 1, size + 2 * shift, g.smallest[1], dtype=torch.double)
    tile = volume[:, :, shift : shift + size].requires_grad_()

    y = net(tile)
    assert tuple(y.shape[2:]) == net.output_size(tile.shape[2:])
    assert net.input_size_for(y.shape[2:]) == tuple(tile.shape[2:])

    # Of the lines along the first axis take one. Its values are those in the volume exactly
    # where the geometry says that they do not feel the edge of the tile.
    column = y.shape[3] // 2
    line = y[0, 0, :, column]
    expected = net(volume)[0, 0, shift : shift + len(line), column]
    same = torch.isclose(line, expected, rtol=1e-9, atol=0).tolist()
    assert same == [margin <= j < len(line) - margin for j in range(len(line))]

    spans = []
    for j in range(margin, margin + stride):
        (gradient,) = torch.autograd.grad(line[j], tile, retain_graph=True)
        read = gradient[0, 0].sum(1).nonzero()
        spans.append(int(read.max() - read.min()) + 1)
    assert max(spans) == g.field_of_view[0]


@given(architectures, st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_a_size_is_accepted_if_and_only_if_no_pooling_leaves_a_row(architecture, size):
    geometry = unet_geometry(**architecture)
    pools, kernels = architecture["pool_sizes"], architecture["kernel_sizes"]
    loss = [0 if architecture["padding"] else 2 * (k - 1) for k in kernels]
    n, divides = size, True
    for pool, lost in zip(pools, loss, strict=False):
        n -= lost
        divides &= n % pool == 0
        n //= pool
    n -= loss[-1]
    for pool, lost in zip(reversed(pools), reversed(loss[:-1]), strict=True):
        n = n * pool - lost
    if divides and n >= 1 and size >= 1:
        assert geometry.output_size(size) == (n, n)
    else:
        with pytest.raises(ValueError, match="too small" if n < 1 else "does not divide"):
            geometry.output_size(size)
