"""Neighbouring sections as channels: in patches, in predictions, block by block."""

import h5py
import numpy as np
import pytest
import torch

from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.cli import main
from malis.cli.configuration import check_configuration
from malis.inference import predict
from malis.inference.grey_values import normalise
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.views import predict_views
from malis.training.augmentation import Augmentation
from malis.training.checkpoint import load_model
from malis.training.dataset import LabelledVolume, PatchDataset
from unet import UNet

OFFSETS = [(-1, 0), (0, -1)]


def unet(neighbours=1, **settings):
    torch.manual_seed(0)
    settings = {"n_classes": 2, "depth": 2, "wf": 2, "padding": True} | settings
    return UNet(in_channels=1 + 2 * neighbours, **settings).eval()


def volume(n_sections=6, size=40, seed=0):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 255, (n_sections, size, size), dtype=np.uint8)
    ids = np.arange(size, dtype=np.uint64)[:, None] // 5 * np.ones((n_sections, 1, size), np.uint64)
    return LabelledVolume(raw, ids + 1, (10.0, 10.0, 10.0))


def test_every_section_stands_between_its_neighbours_by_hand():
    stack = stack_neighbours(np.arange(4).reshape(4, 1, 1), 2)
    assert stack.shape == (5, 4, 1, 1)
    np.testing.assert_array_equal(
        stack[...].reshape(5, 4),
        [[2, 1, 0, 1], [1, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 2], [2, 3, 2, 1]],
    )
    np.testing.assert_array_equal(stack[:, 1].ravel(), [1, 0, 1, 2, 3])
    assert stack[2, 3, 0, 0] == 3


def test_a_single_section_is_its_own_neighbour():
    np.testing.assert_array_equal(stack_neighbours(np.full((1, 2, 2), 7), 1)[...].ravel(), [7] * 12)


def test_only_what_is_asked_for_is_read():
    class Counting:
        shape, dtype = (100, 8, 8), np.dtype(np.uint8)

        def __getitem__(self, index):
            read.append(index)
            return np.zeros((100, 8, 8), np.uint8)[index]

    read = []
    assert stack_neighbours(Counting(), 2)[:, 50, 2:4, 0:8].shape == (5, 2, 8)
    assert read == [(slice(48, 53), slice(2, 4), slice(0, 8))]


def test_without_neighbours_a_volume_stays_as_it_is():
    raw = np.zeros((3, 4, 4), np.uint8)
    assert stack_neighbours(raw, 0) is raw


@pytest.mark.parametrize("array, neighbours", [(np.zeros((4, 4)), 1), (np.zeros((2, 4, 4)), -1)])
def test_what_cannot_be_stacked_is_refused(array, neighbours):
    with pytest.raises(ValueError, match="neighbours"):
        stack_neighbours(array, neighbours)


def test_a_network_tells_how_many_neighbours_it_sees():
    assert [neighbours_of(unet(k)) for k in (0, 1, 3)] == [0, 1, 3]
    with pytest.raises(ValueError, match="has 2 channels"):
        neighbours_of(UNet(in_channels=2))
    with pytest.raises(ValueError, match="this 3D network has 3 channels"):
        neighbours_of(UNet(in_channels=3, ndim=3))


def test_a_prediction_is_that_of_every_section_alone_with_its_neighbours():
    net, part = unet(1), volume()
    whole = predict(net, stack_neighbours(part.raw, 1), tile=32, progress=False)
    assert whole.shape == (2, *part.raw.shape)
    for z, around in ((0, (1, 0, 1)), (3, (2, 3, 4)), (5, (4, 5, 4))):
        alone = predict(net, part.raw[list(around)], progress=False)
        np.testing.assert_allclose(whole[:, z], alone, atol=1e-5)
    other = part.raw.copy()
    other[4] = 255 - other[4]
    changed = predict(net, stack_neighbours(other, 1), tile=32, progress=False) != whole
    assert changed.any(axis=(0, 2, 3)).tolist() == [False, False, False, True, True, True]


def test_all_views_keep_the_order_of_the_sections():
    """A network that copies one channel shows which section it saw."""

    net = unet(1)
    net.forward = lambda x: x[:, [0, 0]]  # the section above, as both affinities
    raw = np.repeat(np.arange(1, 5, dtype=np.uint8) * 50, 64).reshape(4, 8, 8)
    seen = predict_views(net, stack_neighbours(raw, 1), OFFSETS, activation=None, progress=False)[
        :, :, 1:, 1:
    ]
    np.testing.assert_allclose(seen[0, :, 3, 3], normalise(raw)[[1, 0, 1, 2], 0, 0], atol=1e-6)


def test_patches_show_the_sections_around_their_labels():
    part = volume(n_sections=7)
    unique = LabelledVolume(
        np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 40), np.uint8),
        part.labels + 1000 * np.arange(7, dtype=np.uint64)[:, None, None],
        part.resolution,
    )
    patches = PatchDataset(unique, (16, 16), neighbours=2)
    flat = PatchDataset(unique, (16, 16))
    seen = set()
    for index in range(60):
        raw, labels = patches[index]
        assert raw.shape == (5, 16, 16) and labels.shape == (16, 16)
        alone, same_labels = flat[index]
        np.testing.assert_array_equal(labels, same_labels)
        np.testing.assert_array_equal(raw[2], alone[0])
        sections = ((raw[:, 0, 0] + 1) * 127.5).round().int().tolist()
        z = sections[2]
        assert sections == [abs(z - 2), abs(z - 1), z, 6 - abs(5 - z), 6 - abs(4 - z)]
        seen.add(z)
    assert seen == set(range(7))


def test_valid_convolutions_and_augmentation_work_with_neighbours():
    part = volume(n_sections=4, size=64)
    raw, labels = PatchDataset(part, (32, 32), (20, 20), neighbours=1, augment=Augmentation())[3]
    assert raw.shape == (3, 32, 32) and labels.shape == (20, 20)


def test_flips_reverse_the_sections_half_of_the_time():
    augment = Augmentation(transpose=False, elastic_amplitude=0, grey_values=None)
    raw = torch.arange(3.0)[:, None, None].expand(3, 4, 4)
    labels = torch.zeros(4, 4, dtype=torch.long)
    firsts = [
        augment(raw, labels, (1.0, 1.0), np.random.default_rng(seed))[0][0, 0, 0].item()
        for seed in range(200)
    ]
    assert set(firsts) == {0.0, 2.0}
    assert 70 < firsts.count(2.0) < 130
    still = Augmentation(flip=False, transpose=False, elastic_amplitude=0, grey_values=None)
    for seed in range(20):
        assert still(raw, labels, (1.0, 1.0), np.random.default_rng(seed))[0][0, 0, 0] == 0


@pytest.mark.parametrize("neighbours, patch", [(-1, (16, 16)), (1, (4, 16, 16))])
def test_neighbours_that_make_no_sense_are_refused(neighbours, patch):
    if neighbours < 0:
        with pytest.raises(ValueError, match="neighbours must be a number of sections"):
            PatchDataset(volume(), patch, neighbours=neighbours)
    table = {
        "data": {"volumes": ["a.hdf"]},
        "training": {"neighbours": neighbours, "patch": list(patch)},
    }
    with pytest.raises(ValueError, match=r"training\.neighbours must be a number of sections"):
        check_configuration(table)


def test_the_command_line_trains_and_predicts_with_neighbours(tmp_path):
    part = volume(n_sections=6, size=48)
    path = tmp_path / "small.hdf"
    with CremiFile(path, "w") as file:
        file.write_raw(Volume(part.raw, part.resolution))
        file.write_neuron_ids(Volume(part.labels, part.resolution))
    model = tmp_path / "my.model"
    (tmp_path / "train.toml").write_text(
        f"""
        data.volumes = ["{path}"]
        split = {{train = [0, 4], validation = [4, 6]}}
        network = {{depth = 2, wf = 2, padding = true}}
        training = {{patch = [16, 16], neighbours = 1, steps = 2, batch_size = 1}}
        """
    )
    main(["train", str(tmp_path / "train.toml"), str(model), "--quiet"])
    affinities = tmp_path / "affinities.hdf"
    main(["predict", str(path), str(affinities), "--checkpoint", str(model), "--quiet"])
    with h5py.File(affinities) as file:
        assert file["affinities"].shape == (2, *part.raw.shape)
        stack = stack_neighbours(part.raw, 1)
        expected = predict(load_model(model).network, stack, progress=False)
        np.testing.assert_allclose(file["affinities"][...], expected, atol=1e-5)
