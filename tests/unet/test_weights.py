from pathlib import Path

import pytest
import torch
from torch import nn

from unet import UNet, load_weights

FIXTURES = Path(__file__).parents[1] / "fixtures" / "unet"
SMALL = {"depth": 2, "wf": 1, "batch_norm": True}


def test_a_checkpoint_saved_with_its_sigmoid():
    path = FIXTURES / "seedproject_sequential_sigmoid.pt"
    case = torch.load(path, weights_only=True)
    net = load_weights(UNet(**case["config"]), path).eval()
    with torch.no_grad():
        affinities = net(case["input"]).sigmoid()
    torch.testing.assert_close(affinities, case["output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": {f"0.{n}": t for n, t in state.items()}},
        lambda state: {"state_dict": {f"module.0.{n}": t for n, t in state.items()}},
        lambda state: {"model": {n: t.half() for n, t in state.items()}},
    ],
    ids=["plain", "wrapped", "sequential", "data_parallel", "half"],
)
def test_the_ways_a_checkpoint_is_wrapped(wrap, tmp_path):
    saved, loaded = UNet(**SMALL), UNet(**SMALL)
    for parameter in saved.parameters():  # numbers that half precision holds exactly
        nn.init.constant_(parameter, 0.25)
    torch.save(wrap(saved.state_dict()), tmp_path / "net.pt")
    assert load_weights(loaded, tmp_path / "net.pt") is loaded
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == saved.state_dict()[name].dtype
        assert torch.equal(tensor, saved.state_dict()[name]), name


def test_a_plain_sequential_keeps_its_numbers():
    saved, loaded = nn.Sequential(nn.Linear(2, 1)), nn.Sequential(nn.Linear(2, 1))
    load_weights(loaded, saved.state_dict())
    assert torch.equal(loaded[0].weight, saved[0].weight)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"wf": 2}, r"0.block.0.weight has shape \(4, 1, 3, 3\), the network's has \(2, "),
        ({"batch_norm": False}, r"down_path.0.block.2.weight has shape \(2, 2, 3, 3\)"),
        ({"depth": 1}, "it lacks down_path.1.block.0.weight"),
        ({"up_mode": "upsample"}, "it lacks up_path.0.up.weight"),
    ],
)
def test_another_architecture_is_named_and_changes_nothing(other, message):
    net = UNet(**SMALL)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"another architecture: .*{message}"):
        load_weights(net, UNet(**{**SMALL, **other}).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_weight_too_many_is_named():
    state = UNet(**SMALL).state_dict() | {"head.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"the network has no head\.weight"):
        load_weights(UNet(**SMALL), state)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {"a": [1.0]}}, [1, 2]])
def test_a_file_without_weights(content, tmp_path):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="holds no weights"):
        load_weights(UNet(**SMALL), tmp_path / "net.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_broken_file(content, tmp_path):
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pt is not a checkpoint of plain tensors"):
        load_weights(UNet(**SMALL), tmp_path / "net.pt")


def test_a_file_that_holds_code_is_refused(tmp_path):
    torch.save(UNet(**SMALL), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of plain tensors"):
        load_weights(UNet(**SMALL), tmp_path / "net.pt")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(UNet(**SMALL), tmp_path / "net.pt")
