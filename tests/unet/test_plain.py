import pytest
import torch
from torch import nn

from unet.plain import PlainCNN


def test_the_network_of_2009():
    net = PlainCNN(out_channels=3, ndim=3)
    assert net.geometry.field_of_view == (17, 17, 17)
    assert sum(p.numel() for p in net.parameters()) == 630 + 2 * 3130 + 1878
    assert net(torch.zeros(1, 1, 21, 21, 21)).shape == (1, 3, 5, 5, 5)


def test_an_output_voxel_reads_its_field_of_view():
    net = PlainCNN(n_layers=3, kernel_size=(3, 5))
    x = torch.randn(1, 1, 12, 20, requires_grad=True)
    y = net(x)
    assert tuple(y.shape[2:]) == net.output_size((12, 20)) == (6, 8)
    (gradient,) = torch.autograd.grad(y[0, 0, 2, 3], x)
    rows, columns = gradient[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 3, 15)
    assert net.geometry.field_of_view == (7, 13)


def test_sizes():
    net = PlainCNN()
    assert net.output_size(21) == (5, 5)
    assert net.input_size_for((5, 100)) == (21, 116)


def test_the_wider_network_of_later_experiments():
    net = PlainCNN(n_layers=6, features=(8, 32, 32, 32, 8), activation="relu")
    widths = [layer.out_channels for layer in net.layers if isinstance(layer, nn.Conv2d)]
    assert widths == [8, 32, 32, 32, 8, 2]
    assert not isinstance(net.layers[-1], nn.ReLU)


def test_it_learns_an_edge_filter():
    torch.manual_seed(0)
    net = PlainCNN(out_channels=1, n_layers=2, kernel_size=3)
    x = torch.randn(8, 1, 24, 24)
    target = (x[:, :, 2:-2, 2:-2] > x[:, :, 1:-3, 2:-2]).float()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(120):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.6
    assert losses[-1] < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ndim": 1}, "ndim must be 2 or 3"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"features": (5, 5)}, r"features needs 3 entries \(n_layers - 1\), got 2"),
        ({"kernel_size": 4}, "odd"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be 2 positive numbers"),
        ({"out_channels": 0}, "channels must be positive"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PlainCNN(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 16, 30), r"too small: the network needs at least \(17, 17\)"),
        ((1, 2, 30, 30), r"shape \(B, 1, y, x\)"),
        ((1, 30, 30), r"shape \(B, 1, y, x\)"),
    ],
)
def test_inputs_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        PlainCNN()(torch.zeros(shape))
