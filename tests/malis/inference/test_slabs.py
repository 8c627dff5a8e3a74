"""Slabs: a 2D network that predicts affinities in 3D, trained and used on every road."""

import re
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import malis
from cremi_eval import Volume
from cremi_eval.io import CremiFile
from data.synthetic import make_sample, write_sample
from malis.affinity import affinities_from_labels, existing_edges
from malis.cli import main
from malis.cli.configuration import check_configuration
from malis.inference import as_sections, as_slabs, predict, predict_views, stack_neighbours
from malis.inference.views import all_views
from malis.training import Augmentation, LabelledVolume, PatchDataset, train, validation_scores
from malis.training.batches import batch_indices
from malis.training.checkpoint import load_model, save_model
from unet import UNet
from unet.geometry import plain_geometry
from unet.network import FullyConvolutional

OFFSETS = malis.nearest_offsets(3)
SLABS = (Path(malis.__file__).parent / "cli/slabs.toml").read_text()
SERIAL = (30.0, 6.0, 6.0)


class GreyValuesTell(FullyConvolutional):
    """A network that joins voxels of one grey value, also across sections."""

    def __init__(self):
        super().__init__(2, 3, 3, plain_geometry([(3, 3)]))
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        own = x[:, 1, 1:-1, 1:-1]
        others = x[:, 0, 1:-1, 1:-1], x[:, 1, :-2, 1:-1], x[:, 1, 1:-1, :-2]
        return self.weight * torch.stack([9 - 9999 * (own - one).abs() for one in others], dim=1)


def unet(**settings):
    torch.manual_seed(0)
    settings = {"depth": 2, "wf": 2, "padding": True} | settings
    return UNet(in_channels=5, n_classes=3, **settings)


def blocks(shape=(7, 24, 28), seed=0):
    """Objects of 2 x 4 x 4 voxels with random grey values, which differ where objects touch."""
    rng = np.random.default_rng(seed)
    grid = tuple(-(-n // step) for n, step in zip(shape, (2, 4, 4), strict=True))
    ids = np.arange(1, 1 + np.prod(grid), dtype=np.uint64).reshape(grid)
    grey = 2 * rng.integers(0, 120, grid) + np.indices(grid).sum(axis=0) % 2
    crop = tuple(slice(n) for n in shape)
    raw, labels = (np.kron(x, np.ones((2, 4, 4), x.dtype))[crop] for x in (grey, ids))
    return LabelledVolume(raw.astype(np.uint8), labels, SERIAL)


class TestSections:
    def test_by_hand(self):
        slabs = torch.arange(8).reshape(2, 1, 4, 1, 1)
        sections = as_sections(slabs, 1)
        assert sections.reshape(4, 3).tolist() == [[0, 1, 2], [1, 2, 3], [4, 5, 6], [5, 6, 7]]
        predicted = sections[:, 1:2]  # what stands in the middle
        assert as_slabs(predicted, 2).shape == (2, 1, 2, 1, 1)
        assert as_slabs(predicted, 2).reshape(2, 2).tolist() == [[1, 2], [5, 6]]

    def test_there_and_back(self):
        slabs = torch.rand(3, 1, 4, 5, 6)
        assert torch.equal(as_slabs(as_sections(slabs, 0), 3), slabs)

    @pytest.mark.parametrize("shape", [(2, 1, 4, 5, 6), (2, 3, 9, 5, 6), (2, 9, 5, 6)])
    def test_what_is_no_slab(self, shape):
        with pytest.raises(ValueError, match=re.escape(f"more than 4 sections, got {shape}")):
            as_sections(torch.zeros(shape), 2)


class TestPatches:
    def test_raw_data_reach_beyond_the_labels(self):
        z = np.arange(9)[:, None, None] * np.ones((1, 24, 24), int)
        labels = (z * 100 + np.arange(24) // 8 + 1).astype(np.uint64)
        volume = LabelledVolume(z.astype(np.uint8), labels, SERIAL)
        patches, firsts = PatchDataset(volume, (4, 16, 16), neighbours=2), set()
        for index in range(40):
            raw, ids = patches[index]
            assert raw.shape == (1, 8, 16, 16) and ids.shape == (4, 16, 16)
            sections = ((raw[0, :, 0, 0] + 1) * 127.5).round().int().tolist()
            first = sections[2]
            assert sections == [min(abs(s), 16 - abs(s)) for s in range(first - 2, first + 6)]
            firsts.add(first)
        assert firsts == set(range(6))

    def test_labels_are_relabelled_within_the_slab(self):
        """A fork whose prongs meet in the sections that are context only."""
        labels = np.full((6, 16, 24), 2, np.uint64)
        labels[:, :, :8] = labels[:, :, 16:] = 1
        labels[:2] = 1
        volume = LabelledVolume(np.zeros(labels.shape, np.uint8), labels, SERIAL)
        patches = PatchDataset(volume, (4, 16, 24), neighbours=2)
        counts = {patches[index][1].max().item() for index in range(30)}
        assert counts == {2, 3}  # with the joint, and without it
        assert labels.max() == 2

    def test_a_margin_lies_within_sections(self):
        volume = blocks()
        _, plain = PatchDataset(volume, (4, 16, 16))[0]
        _, ids = PatchDataset(volume, (4, 16, 16), boundary=(0, 1, 1))[0]
        kept = malis.grow_boundary(plain.numpy(), (0, 1, 1)) > 0
        np.testing.assert_array_equal(ids > 0, kept)
        assert kept.any() and not kept.all()

    def test_valid_convolutions(self):
        raw, ids = PatchDataset(blocks(), (3, 16, 20), (3, 12, 16), neighbours=1)[0]
        assert raw.shape == (1, 5, 16, 20) and ids.shape == (3, 12, 16)

    def test_augmentation_turns_raw_data_and_labels_alike(self):
        """Whatever was flipped and transposed, grey values and labels say the same."""
        volume = blocks((12, 40, 40))
        augment = Augmentation(elastic_amplitude=0, grey_values=None)
        patches = PatchDataset(volume, (4, 16, 16), neighbours=1, augment=augment)
        for index in range(20):
            raw, ids = patches[index]
            grey = raw[0, 1:-1].numpy()
            seen = affinities_from_labels(ids.numpy(), OFFSETS)
            for channel, offset in enumerate(OFFSETS):
                same = grey == np.roll(grey, np.negative(offset), axis=(0, 1, 2))
                exists = existing_edges(grey.shape, [offset])[0]
                np.testing.assert_array_equal(seen[channel][exists], same[exists])

    def test_thick_sections_are_deformed_alike_and_thin_ones_are_not(self):
        raw = torch.rand(1, 1, 56, 56).expand(1, 8, 56, 56)
        augment = Augmentation(flip=False, transpose=False, grey_values=None)
        labels = torch.zeros(4, 56, 56, dtype=torch.long)
        out, ids = augment(raw, labels, SERIAL, np.random.default_rng(0))
        assert out.shape == (1, 8, 40, 40) and ids.shape == (4, 40, 40)
        torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=1e-4)
        assert (out[:, 0] - raw[:, 0, 8:-8, 8:-8]).abs().max() > 0.1
        raw, labels = raw[:, :1].expand(1, 24, 56, 56), labels[:1].expand(20, 56, 56)
        out, _ = augment(raw, labels, (6.0, 6.0, 6.0), np.random.default_rng(0))
        assert out.shape == (1, 8, 40, 40) and (out - out[:, :1]).abs().max() > 0.1

    def test_a_damaged_section_is_damaged_wherever_it_is_seen(self):
        augment = Augmentation(damaged_sections=0.5, elastic_amplitude=0, grey_values=None)
        raw, _ = PatchDataset(blocks(), (4, 16, 16), neighbours=2, augment=augment, seed=2)[0]
        black = (raw[0] == -1).all(dim=(1, 2))
        assert black.any() and not black.all()
        channels = (as_sections(raw[None], 2) == -1).all(dim=(2, 3))
        assert torch.equal(channels, black.unfold(0, 5, 1))


class TestTraining:
    def test_the_network_sees_sections_and_the_loss_a_graph_in_3d(self):
        seen = {}

        def loss(affinities, labels):
            seen["loss"] = affinities.shape, labels.shape
            return malis.MalisLoss(OFFSETS)(affinities, labels)

        net = unet()
        net.register_forward_pre_hook(lambda _, x: seen.update(network=x[0].shape))
        data = PatchDataset(blocks(), (4, 16, 16), neighbours=2)
        train(net, loss, data, steps=1, batch_size=3, device="cpu", progress=False)
        assert seen["network"] == (12, 5, 16, 16)
        assert seen["loss"] == ((3, 3, 4, 16, 16), (3, 4, 16, 16))

    @pytest.mark.parametrize("fast", [False, True])
    def test_one_step_is_gradient_descent(self, fast):
        net, twin, loss = unet(), unet(), malis.AffinityCrossEntropy(OFFSETS)
        data = PatchDataset(blocks(), (3, 16, 16), neighbours=2)
        train(net, loss, data, steps=1, batch_size=2, learning_rate=0.1, device="cpu",
              optimiser=torch.optim.SGD, progress=False, channels_last=fast)  # fmt: skip
        batch = [data[index] for index in batch_indices(0, 1, 2, len(data))]
        predicted = []
        for raw, _ in batch:
            sections = [twin(raw[:, z : z + 5])[0] for z in range(3)]
            predicted.append(torch.stack(sections, dim=1))
        labels = torch.stack([ids for _, ids in batch])
        loss(torch.stack(predicted).sigmoid(), labels).backward()
        with torch.no_grad():
            for old, new in zip(twin.parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(old - 0.1 * old.grad, new, rtol=1e-4, atol=1e-6)

    def test_another_number_of_neighbours(self):
        data = PatchDataset(blocks(), (4, 16, 16), neighbours=1)
        with pytest.raises(ValueError, match=r"\(6, 16, 16\) voxels into \(2, 16, 16\)"):
            train(unet(), malis.MalisLoss(OFFSETS), data, steps=1, device="cpu", progress=False)

    def test_the_loss_falls(self):
        net, data = unet(wf=3), PatchDataset(blocks((12, 40, 40)), (4, 16, 16), neighbours=2)
        loss = malis.AffinityCrossEntropy(OFFSETS)
        losses = train(net, loss, data, steps=80, learning_rate=1e-2, batch_size=2, device="cpu",
                       progress=False, mixed_precision=True).training["loss"]  # fmt: skip
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


class TestPrediction:
    def expected(self, volume):
        affinities = affinities_from_labels(volume.labels.view(np.int64), OFFSETS)
        return affinities, existing_edges(volume.raw.shape, OFFSETS)

    def test_the_first_affinity_leads_to_the_section_before(self):
        volume = blocks()
        seen = predict(GreyValuesTell(), stack_neighbours(volume.raw, 1), progress=False)
        expected, exists = self.expected(volume)
        assert seen.shape == (3, *volume.raw.shape) and len(np.unique(expected[0][1:])) == 2
        np.testing.assert_allclose(seen[exists], expected[exists], atol=1e-3)

    @pytest.mark.parametrize("read", [lambda stack: stack, lambda stack: stack[...]])
    def test_every_view_says_the_same(self, read):
        volume = blocks((5, 20, 24))
        seen = read(stack_neighbours(volume.raw, 1))
        mean = predict_views(GreyValuesTell(), seen, OFFSETS, progress=False)
        expected, exists = self.expected(volume)
        np.testing.assert_allclose(mean, expected * exists, atol=1e-3)

    def test_the_mean_does_not_depend_on_how_the_volume_lies(self):
        volume, net = blocks((4, 16, 24)), unet().eval()
        mean = predict_views(net, stack_neighbours(volume.raw, 2), OFFSETS, progress=False)
        plain = predict(net, stack_neighbours(volume.raw, 2), progress=False)
        assert np.abs(mean - plain)[:, 1:, 1:, 1:].max() > 1e-3
        assert len(list(all_views(3))) == 16
        for view in all_views(3):
            stack = stack_neighbours(view.of(volume.raw), 2)
            turned = predict_views(net, stack, OFFSETS, progress=False)
            np.testing.assert_allclose(view.restored(turned, np.array(OFFSETS)), mean, atol=1e-5)

    def test_block_by_block(self, tmp_path):
        pytest.importorskip("zarr")
        from malis.scale import predict_volume, segment_volume
        from malis.scale.volumes import open_volume

        volume = blocks((8, 40, 40))
        with CremiFile(tmp_path / "raw.hdf", "w") as file:
            file.write_raw(Volume(volume.raw, volume.resolution))
        arguments = {"in_channels": 5, "n_classes": 3, "depth": 2, "wf": 2, "padding": True}
        save_model(tmp_path / "net.model", unet(), arguments, OFFSETS, half=False)
        whole = predict(unet(), stack_neighbours(volume.raw, 2), progress=False)
        settings = {"block": (3, 24, 24), "workers": 0, "progress": False, "device": "cpu"}
        files = [tmp_path / name for name in ("raw.hdf", "a.zarr", "net.model")]
        predict_volume(*files, **settings)
        blockwise = open_volume(files[1], "affinities")
        np.testing.assert_allclose(blockwise[:], whole, atol=1e-5)
        assert np.array_equal(blockwise.attributes["offsets"], OFFSETS)
        files[1] = tmp_path / "b.zarr"
        segment_volume(*files, **settings, threshold=0.5)
        assert open_volume(files[1]).shape == volume.raw.shape

    def test_validation_scores_the_volume_as_one(self):
        volume = blocks((8, 40, 40))
        scores = validation_scores(GreyValuesTell(), [volume], OFFSETS)
        assert scores["cremi_score"] < 0.05 and scores["threshold"] < 1
        apart = volume.labels + 10_000 * np.arange(8, dtype=np.uint64)[:, None, None]
        one = LabelledVolume(volume.raw, apart, volume.resolution)
        scores = validation_scores(GreyValuesTell(), [one], OFFSETS)
        assert scores["cremi_score"] < 0.05 and scores["threshold"] >= 1  # no merge is right


class TestCommandLine:
    def test_from_training_to_labels(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        write_sample("sample.hdf", make_sample((12, 64, 64), seed=0))
        (tmp_path / "slabs.toml").write_text(SLABS)
        changes = [
            'data.volumes=["sample.hdf"]', "split.train=[0, 8]", "split.validation=[8, 12]",
            "network.depth=2", "network.wf=2", "training.patch=[32, 32]", "training.steps=3",
            "training.augment=false",
        ]  # fmt: skip
        assert main(["train", "slabs.toml", "my.model", "--quiet", "--set", *changes]) == 0
        model = load_model("my.model")
        assert model.offsets == OFFSETS and model.network.ndim == 2
        assert model.network.in_channels == 5
        threshold = model.card["scores"]["agglomeration"]["threshold"]
        assert f"at threshold {threshold:.3f}" in capsys.readouterr().out

        network = ["--checkpoint", "my.model", "--quiet"]
        for views in ([], ["--views"]):
            assert main(["predict", "sample.hdf", "a.hdf", *network, *views, "--overwrite"]) == 0
            with h5py.File("a.hdf") as file:
                assert file["affinities"].shape == (3, 12, 64, 64)
                assert np.array_equal(file["affinities"].attrs["offsets"], OFFSETS)
        for source in (["sample.hdf", *network], ["a.hdf", "--quiet"]):
            assert main(["segment", source[0], "labels.hdf", *source[1:], "--overwrite"]) == 0
            assert main(["evaluate", "labels.hdf", "sample.hdf"]) == 0

    def test_the_example_is_one(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "--example", "slabs"])
        assert stopped.value.code == 0 and capsys.readouterr().out == SLABS
        example = check_configuration(tomllib.loads(SLABS))
        assert example.offsets == OFFSETS and example.loss.losses[0].size == (4, 32, 32)
        assert example.arguments["in_channels"] == 5 and example.arguments["ndim"] == 2

    @pytest.mark.parametrize(
        ("training", "words"),
        [
            ({"depth": 0}, "training.depth must be a number of sections"),
            ({"depth": 3, "patch": [3, 32, 32]}, "training.depth must be a number of sections"),
            ({"neighbours": 1, "patch": [3, 32, 32]}, "training.neighbours must be a number"),
        ],
    )
    def test_what_makes_no_sense(self, training, words):
        with pytest.raises(ValueError, match=words):
            check_configuration({"data": {"volumes": ["a.hdf"]}, "training": training})
        offsets = {"data": {"volumes": ["a.hdf"]}, "training": {"depth": 2}}
        with pytest.raises(ValueError, match="must have 3 numbers each"):
            check_configuration(offsets | {"network": {"offsets": [[-1, 0]]}})
