from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from malis.inference import plan_tiles, predict
from malis.inference.grey_values import normalise
from unet import UNet, unet_geometry
from unet.plain import PlainCNN

ANISOTROPIC = {
    "ndim": 3, "n_classes": 3,
    "pool_sizes": [(1, 2, 2), (1, 3, 2)], "kernel_sizes": [(1, 3, 3), 3, 3],
}  # fmt: skip


def volume_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def unet(**arguments):
    """A small U-Net whose batch normalisation is off its defaults."""
    torch.manual_seed(0)
    net = UNet(**{"depth": 3, "wf": 2, "batch_norm": True, **arguments})
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def in_one_piece(net, volume):
    """The definition: mirror what the network reads beyond the volume, apply, cut."""
    length = volume.shape[-net.ndim :]
    whole = net.input_size_for(length)
    pad = [(c, w - n - c) for n, w, c in zip(length, whole, net.geometry.crop, strict=True)]
    x = np.pad(normalise(volume), pad, mode="reflect")
    training = net.training
    with torch.no_grad():
        y = net.eval()(torch.from_numpy(x)[None, None]).sigmoid()[0].numpy()
    net.train(training)
    return y[(slice(None), *(slice(n) for n in length))]


@pytest.mark.parametrize("up_mode", ["upconv", "upsample"])
@pytest.mark.parametrize("padding", [False, True])
class TestTilesEqualOnePiece:
    @pytest.mark.parametrize("tile", [72, 77, (60, 90), 1000])
    @pytest.mark.parametrize("shape", [(96, 120), (101, 87), (5, 131)])
    def test_2d(self, up_mode, padding, shape, tile):
        net, volume = unet(up_mode=up_mode, padding=padding), volume_of(shape)
        affinities = predict(net, volume, tile=tile, batch_size=3, progress=False)
        assert affinities.dtype == np.float32
        np.testing.assert_allclose(affinities, in_one_piece(net, volume), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("tile", [(20, 84, 70), (17, 200, 66)])
    @pytest.mark.parametrize("shape", [(23, 40, 41), (1, 60, 30)])
    def test_3d(self, up_mode, padding, shape, tile):
        net = unet(up_mode=up_mode, padding=padding, wf=1, **ANISOTROPIC)
        volume = volume_of(shape)
        affinities = predict(net, volume, tile=tile, batch_size=2, progress=False)
        np.testing.assert_allclose(affinities, in_one_piece(net, volume), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tile", [17, 30, 500])
def test_plain_network_in_tiles(tile):
    for net, shape in [
        (PlainCNN(), (40, 33)),
        (PlainCNN(out_channels=3, ndim=3, kernel_size=3), (4, 14, 9)),
    ]:
        volume = volume_of(shape)
        affinities = predict(net, volume, tile=tile, batch_size=4, progress=False)
        np.testing.assert_allclose(affinities, in_one_piece(net, volume), atol=1e-6, rtol=0)


def test_padded_network_on_a_size_that_divides_is_simply_the_network():
    net, volume = unet(padding=True).eval(), volume_of((64, 80))
    with torch.no_grad():
        expected = net(torch.from_numpy(normalise(volume))[None, None]).sigmoid()[0].numpy()
    np.testing.assert_allclose(predict(net, volume, tile=52, progress=False), expected, atol=1e-6)


def test_valid_network_with_all_its_tissue_is_simply_the_network():
    net, volume = unet().eval(), volume_of((92, 92))
    with torch.no_grad():
        expected = net(torch.from_numpy(normalise(volume))[None, None]).sigmoid()[0].numpy()
    inner = predict(net, volume, tile=64, progress=False)[:, 20:72, 20:72]
    np.testing.assert_allclose(inner, expected, atol=1e-6)


@pytest.mark.parametrize(
    "broken", [{"stride": (1, 1), "context": (23, 23)}, {"context": (4, 4)}],
    ids=["not aligned", "too near the edge"],
)  # fmt: skip
def test_without_the_rules_there_are_seams(broken):
    net, volume = unet(padding=True), volume_of((96, 96))
    assert net.geometry.context == (22, 22)
    expected = predict(net, volume, progress=False)
    net.geometry = replace(net.geometry, **broken)
    found = predict(net, volume, tile=64, progress=False)
    assert np.abs(found - expected).max() > 1e-4


geometries = st.builds(
    unet_geometry, st.integers(1, 4), st.booleans(), st.sampled_from(["upconv", "upsample"])
)


@given(geometries, st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(0, 150))
@settings(max_examples=100, deadline=None)
def test_tiles_cover_every_voxel_once_and_keep_their_distance(geometry, length, more):
    least = geometry.ceil(
        tuple(2 * c + s for c, s in zip(geometry.context, geometry.stride, strict=True))
    )
    input_size, spans = plan_tiles(geometry, length, tuple(n + more for n in least))
    whole = geometry.input_size_for(length)
    for axis, tiles in enumerate(spans):
        size, crop, context = input_size[axis], geometry.crop[axis], geometry.context[axis]
        assert geometry.output_size(input_size)[axis] >= 1
        assert size <= least[axis] + more
        kept = [voxel for tile in tiles for voxel in range(tile.first, tile.stop)]
        assert kept == list(range(length[axis]))
        for start, first, stop in tiles:
            assert start % geometry.stride[axis] == 0
            left, right = start - crop, start - crop + size  # the input
            assert left == -crop or first - left >= context
            assert right == whole[axis] - crop or right - stop >= context


def test_a_stack_is_predicted_section_by_section():
    net, volume = unet(), volume_of((3, 50, 61))
    stack = predict(net, volume, tile=64, batch_size=5, progress=False)
    assert stack.shape == (2, 3, 50, 61)
    for z in range(3):
        section = predict(net, volume[z], tile=64, progress=False)
        np.testing.assert_allclose(stack[:, z], section, atol=1e-6)


def test_several_channels_come_first():
    net, volume = unet(in_channels=3), volume_of((3, 2, 50, 61))
    stack = predict(net, volume, tile=64, progress=False)
    assert stack.shape == (2, 2, 50, 61)
    section = predict(net, volume[:, 1], progress=False)
    np.testing.assert_allclose(stack[:, 1], section, atol=1e-6)


def test_from_file_to_file(tmp_path):
    net, volume = unet(), volume_of((2, 70, 90))
    expected = predict(net, volume, progress=False)
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        raw = file.create_dataset("raw", data=volume, chunks=(1, 32, 32))
        out = file.create_dataset("affinities", expected.shape, "f4")
        assert predict(net, raw, tile=64, out=out, progress=False) is out
        np.testing.assert_allclose(out[:], expected, atol=1e-6)


def test_the_largest_block_read_is_a_tile():
    """The memory for the input is bounded by the tile, not by the volume."""

    class Recorder:
        shape = (1, 400, 400)
        largest = 0

        def __getitem__(self, index):
            sizes = [part.stop - part.start for part in index if isinstance(part, slice)]
            self.largest = max(self.largest, *sizes)
            return np.zeros(sizes, np.uint8)

    volume = Recorder()
    assert predict(unet(), volume, tile=100, progress=False).shape == (2, 1, 400, 400)
    assert volume.largest <= 100


@pytest.mark.parametrize("training", [True, False])
def test_network_and_volume_are_left_as_they_were(training):
    net, volume = unet(depth=2).train(training), volume_of((30, 30))
    net.up_path[0].eval()
    modes = [module.training for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = volume.copy()
    first = predict(net, volume, progress=False)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert np.array_equal(volume, before)
    assert np.array_equal(first, predict(net, volume, device="cpu", progress=False))
    net(torch.zeros(2, 1, 22, 22)).sum().backward()  # it can still be trained


def test_modes_come_back_after_an_error():
    net = unet(depth=2).train()
    with pytest.raises(ValueError, match="holds nan at voxel"):
        predict(net, np.full((30, 30), np.nan, np.float32), progress=False)
    assert net.training


def test_logits_floats_and_tensors():
    net, volume = unet(depth=2), volume_of((30, 30))
    affinities = predict(net, volume, progress=False)
    logits = predict(net, volume, activation=None, progress=False)
    np.testing.assert_allclose(affinities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    tensor = torch.from_numpy(normalise(volume))
    np.testing.assert_array_equal(predict(net, tensor, progress=False), affinities)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (unet(), (2, 3, 60, 60), r"axes \(y, x\) or \(z, y, x\)"),
        (unet(), (60,), r"axes \(y, x\) or \(z, y, x\)"),
        (unet(), (0, 60, 60), "none empty"),
        (unet(**ANISOTROPIC), (60, 60), r"axes \(z, y, x\), none empty, for this 3D"),
        (unet(in_channels=3), (60, 60), r"the network's 3 channels as first axis, got shape \(60,"),
        (unet(in_channels=3), (3, 60), r"with 3 input channel\(s\), got shape \(3, 60\)"),
    ],
)
def test_axes_and_channels_are_named(net, shape, message):
    with pytest.raises(ValueError, match=message):
        predict(net, np.zeros(shape, np.uint8), progress=False)


def test_tiles_that_are_too_small():
    volume = volume_of((200, 20))
    with pytest.raises(
        ValueError, match=r"tile \(40, 40\) is smaller .* tiles of at least \(44, 44\)"
    ):
        predict(unet(), volume, tile=40, progress=False)
    with pytest.raises(ValueError, match="tile must be 2 positive numbers"):
        predict(unet(), volume, tile=(40, 40, 40), progress=False)


def test_arguments_that_do_not_fit():
    net, volume = unet(depth=2), volume_of((30, 30))
    with pytest.raises(ValueError, match=r"out must have shape \(2, 30, 30\) .* \(30, 30\)"):
        predict(net, volume, out=np.empty((30, 30)), progress=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predict(net, volume, batch_size=0, progress=False)
    with pytest.raises(TypeError, match="net must be a UNet or a PlainCNN, got Sequential"):
        predict(nn.Sequential(net), volume, progress=False)
    with pytest.raises(TypeError, match="unsigned integers or floats, got int64"):
        predict(net, volume.astype(np.int64), progress=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_affinities_are_not_written_as_integers(dtype):
    out = np.zeros((2, 30, 30), dtype)
    with pytest.raises(TypeError, match=f"out must hold floating-point .* got {out.dtype}"):
        predict(unet(depth=2), volume_of((30, 30)), out=out, progress=False)


def test_affinities_are_not_written_into_tensors():
    with pytest.raises(TypeError, match=r"out must be a NumPy array .* got a Tensor"):
        predict(unet(depth=2), volume_of((30, 30)), out=torch.empty(2, 30, 30), progress=False)


def test_numbers_of_numpy_are_sizes():
    net, volume = unet(depth=2), volume_of((60, 60))
    expected = predict(net, volume, tile=40, progress=False)
    np.testing.assert_array_equal(predict(net, volume, tile=np.int64(40), progress=False), expected)


def test_a_compiled_network_predicts_like_the_network():
    net, volume = unet(depth=2).train(), volume_of((30, 30))
    compiled, calls = torch.compile(net, backend="eager"), []
    net.register_forward_hook(lambda *_: calls.append(1))
    expected = predict(net, volume, progress=False)
    np.testing.assert_array_equal(predict(compiled, volume, progress=False), expected)
    assert len(calls) == 2 and net.training


def test_what_is_not_finite_is_named_with_its_tile():
    net = unet(depth=2)
    volume = normalise(volume_of((2, 60, 60)))
    volume[1, 50, 3] = np.inf
    with pytest.raises(ValueError, match=r"volume holds inf at voxel \[1, 50, 3\]"):
        predict(net, volume, tile=40, progress=False)
    with torch.no_grad():
        net.last.bias.fill_(np.nan)
    with pytest.raises(ValueError, match=r"prediction is NaN or infinite in the tile \[0, 0:"):
        predict(net, volume, tile=40, progress=False)


class TestNormalise:
    def test_values(self):
        assert normalise(np.array([0, 255], np.uint8)).tolist() == [-1, 1]
        assert normalise(np.array([0, 65535], np.uint16)).tolist() == [-1, 1]
        assert normalise(np.array([0.25], np.float64)).tolist() == [0.25]

    def test_every_grey_value_keeps_its_place(self):
        grey = np.arange(256, dtype=np.uint8)
        np.testing.assert_allclose(normalise(grey), grey / 127.5 - 1, atol=1e-7)

    def test_result_is_new(self):
        raw = np.zeros(3, np.float32)
        normalise(raw)[:] = 1
        assert not raw.any()

    @pytest.mark.parametrize("dtype", [np.int16, bool, complex])
    def test_other_types(self, dtype):
        with pytest.raises(TypeError, match="raw must hold unsigned integers or floats"):
            normalise(np.zeros(3, dtype))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_and_back():
    net, volume = unet(), volume_of((2, 100, 90))
    expected = predict(net, volume, progress=False)
    found = predict(net, volume, device="cuda", tile=64, batch_size=4, progress=False)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    half = predict(net, volume, device="cuda", mixed_precision=True, progress=False)
    np.testing.assert_allclose(half, expected, atol=1e-2)
    assert half.dtype == np.float32
    assert next(net.parameters()).device.type == "cpu"
    net(torch.zeros(1, 1, 44, 44)).sum().backward()
