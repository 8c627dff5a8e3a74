import json
from pathlib import Path

import pytest
import torch

from unet import UNet

FIXTURES = Path(__file__).parents[1] / "fixtures" / "unet"
CASES = json.loads((FIXTURES / "state_dict_keys.json").read_text())
VARIANTS = ["valid_upconv", "valid_bn_upsample", "pad_bn_upconv_rgb"]
ODD = "ignore:input of size .* does not divide:UserWarning"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_weights_and_sizes_equal_the_reference(case):
    with torch.device("meta"):
        net = UNet(**case["config"])
        x = torch.empty(1, net.in_channels, case["input_hw"], case["input_hw"])
        y = net(x)
    state = [
        [name, list(t.shape), str(t.dtype).removeprefix("torch.")]
        for name, t in net.state_dict().items()
    ]
    assert state == case["state_dict"]
    assert sum(p.numel() for p in net.parameters()) == case["n_parameters"]
    assert list(y.shape[2:]) == case["output_hw"] == list(net.output_size(case["input_hw"]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings(ODD)
def test_outputs_equal_the_reference(variant):
    case = torch.load(FIXTURES / f"{variant}.pt", weights_only=True)
    net = UNet(**case["config"]).eval()
    net.load_state_dict(case["state_dict"])
    with torch.no_grad():
        torch.testing.assert_close(net(case["input"]), case["output"], atol=1e-5, rtol=0)
        exact = net.double()(case["input"].double())
    torch.testing.assert_close(exact, case["output_float64"], atol=1e-12, rtol=0)


def test_three_dimensions_hold_two():
    """With one section and kernels that see one section, the 3D network is the 2D network."""
    torch.manual_seed(0)
    flat = UNet(1, 2, 3, 2, batch_norm=True).eval()
    deep = UNet(
        1, 2, 3, 2, batch_norm=True, ndim=3,
        pool_sizes=[(1, 2, 2)] * 2, kernel_sizes=[(1, 3, 3)] * 3,
    ).eval()  # fmt: skip
    state = {n: t.unsqueeze(2) if t.ndim == 4 else t for n, t in flat.state_dict().items()}
    deep.load_state_dict(state)
    x = torch.randn(2, 1, 5, 44, 48)
    with torch.no_grad():
        sections = torch.stack([flat(x[:, :, z]) for z in range(5)], dim=2)
        torch.testing.assert_close(deep(x), sections, atol=1e-6, rtol=0)


@pytest.mark.parametrize("up_mode", ["upconv", "upsample"])
@pytest.mark.parametrize("padding", [False, True])
def test_anisotropic_3d_learns(up_mode, padding):
    torch.manual_seed(0)
    net = UNet(
        2, 3, 2, 1, padding, True, up_mode, ndim=3,
        pool_sizes=[(1, 3, 2)], kernel_sizes=[(1, 3, 3), 3],
    )  # fmt: skip
    x = torch.randn(2, 2, *net.input_size_for((2, 5, 4)))
    y = net(x)
    assert y.shape == (2, 3, *net.output_size(x.shape[2:]))
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.last.parameters())
    assert net.down_path[0].block[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(51, 42), (48, 42)])
def test_a_size_that_does_not_divide(size):
    net = UNet(depth=4, wf=1, padding=True)
    x = torch.zeros(1, 1, *size)
    message = rf"\({size[0]}, 42\) does not divide .* \(48, 40\) and \({-size[0] // 8 * -8}, 48\)"
    with pytest.raises(ValueError, match=message):
        net(x)
    with pytest.warns(UserWarning, match="the output is cropped and not centred"):
        assert net.eval()(x).shape[2:] == (48, 40)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("padding", "size", "least"), [(False, (44, 43), 44), (True, (8, 3), 4), (False, (2, 99), 44)]
)
def test_too_small_an_input_is_named(training, padding, size, least):
    net = UNet(depth=3, wf=1, padding=padding).train(training)
    with pytest.raises(ValueError, match=rf"too small: the network needs at least \({least}, "):
        net(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("shape", [(1, 3, 44, 44), (1, 44, 44), (1, 1, 9, 44, 44)])
def test_axes_and_channels_are_named(shape):
    with pytest.raises(ValueError, match=r"shape \(B, 1, y, x\), got"):
        UNet(depth=3, wf=1)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"up_mode": "nearest"}, 'up_mode must be "upconv" or "upsample"'),
        ({"wf": -1}, "wf must be at least 0"),
        ({"in_channels": 0}, "channels must be positive"),
        ({"depth": 0}, "depth must be at least 1"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


def test_forward_leaves_its_input_alone():
    x = torch.randn(1, 1, 44, 44)
    before = x.clone()
    UNet(depth=3, wf=1)(x)
    assert torch.equal(x, before)
