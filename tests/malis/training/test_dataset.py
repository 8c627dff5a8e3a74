import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from torch.utils.data import DataLoader

from malis.labels import grow_boundary
from malis.training import describe
from malis.training.augmentation import Augmentation
from malis.training.dataset import (
    LabelledVolume,
    PatchDataset,
    SectionSplit,
    load_volume,
    relabel_components,
    split_sections,
)

SHARED = Path(__file__).parents[3] / "../shared/data"
ISOTROPIC = (10.0, 10.0, 10.0)
SERIAL = (40.0, 4.0, 4.0)


def tissue(shape=(6, 60, 64), resolution=SERIAL, cell=12):
    """Square cells whose ids are huge; the grey value of a voxel tells its cell."""
    _, y, x = np.indices(shape)
    cells = (y // cell) * 100 + x // cell + 1
    raw = (cells * 37 % 251).astype(np.uint8)
    return LabelledVolume(raw, (cells.astype(np.uint64) + np.uint64(2**63)), resolution, "cells")


def write_cremi(path, raw=None, labels=None):
    with h5py.File(path, "w") as file:
        for name, data in (("volumes/raw", raw), ("volumes/labels/neuron_ids", labels)):
            if data is not None:
                file[name] = data
                file[name].attrs["resolution"] = SERIAL
    return path


class TestLoading:
    def test_reads_raw_labels_and_resolution(self, tmp_path):
        volume = tissue()
        path = write_cremi(tmp_path / "a.hdf", volume.raw, volume.labels)
        read = load_volume(path)
        np.testing.assert_array_equal(read.raw, volume.raw)
        np.testing.assert_array_equal(read.labels, volume.labels)
        assert read.labels.dtype == np.uint64 and read.resolution == SERIAL

    def test_signed_ids_become_unsigned(self, tmp_path):
        labels = np.arange(8, dtype=np.int64).reshape(2, 2, 2)
        path = write_cremi(tmp_path / "a.hdf", np.zeros((2, 2, 2), np.uint8), labels)
        np.testing.assert_array_equal(load_volume(path).labels, labels.astype(np.uint64))

    @pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
    def test_minus_one_is_no_object(self, tmp_path, dtype):
        labels = np.repeat(np.array([1, 1, -1, -1, 2, 2], dtype), 10)
        labels = np.ascontiguousarray(np.broadcast_to(labels, (2, 20, 60)))
        raw = np.zeros(labels.shape, np.uint8)
        volume = load_volume(write_cremi(tmp_path / "a.hdf", raw, labels))
        assert volume.labels.max() == 2**64 - 1  # CREMI's id for it
        _, patch = PatchDataset(volume, (20, 60))[0]
        np.testing.assert_array_equal(patch == 0, labels[:1].reshape(20, 60) == -1)
        assert set(np.unique(patch)) == {0, 1, 2}
        alone = np.where(labels == 2, dtype(1), labels)  # one object and none is no pair
        volume = load_volume(write_cremi(tmp_path / "b.hdf", raw, alone))
        with pytest.raises(ValueError, match="fewer than two objects"):
            PatchDataset(volume, (20, 60))

    @pytest.mark.parametrize(
        ("raw", "labels", "error", "words"),
        [
            (None, np.ones((2, 2, 2), np.uint64), KeyError, "volumes/raw"),
            (np.ones((2, 2, 2), np.uint8), None, KeyError, "neuron_ids"),
            (np.ones((2, 2, 2), np.uint8), np.ones((2, 2, 3), np.uint64), ValueError, "a.hdf"),
            (np.ones((2, 2, 2), np.uint16), np.ones((2, 2, 2), np.uint64), TypeError, "uint16"),
            (np.ones((2, 2, 2), np.uint8), np.ones((2, 2, 2), np.float32), TypeError, "float32"),
            (np.ones((2, 2, 2), np.uint8), -2 * np.ones((2, 2, 2), np.int64), ValueError, "-2"),
        ],
    )
    def test_bad_files_get_one_clear_error(self, tmp_path, raw, labels, error, words):
        with pytest.raises(error, match=words):
            load_volume(write_cremi(tmp_path / "a.hdf", raw, labels))

    def test_truncated_file(self, tmp_path):
        volume = tissue()
        path = write_cremi(tmp_path / "a.hdf", volume.raw, volume.labels)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(OSError, match="truncated"):
            load_volume(path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_volume(tmp_path / "none.hdf")


class TestSplit:
    def test_runs_follow_each_other(self):
        split = split_sections(24)
        assert (split.train, split.validation, split.test) == (
            range(16),
            range(16, 20),
            range(20, 24),
        )

    def test_five_sections_leave_one_for_each(self):
        split = split_sections(5)
        assert (split.train, split.validation, split.test) == (range(3), range(3, 4), range(4, 5))

    @given(
        st.integers(1, 300),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
    )
    def test_every_section_is_in_exactly_one_set(self, n, validation, test):
        try:
            split = split_sections(n, validation=validation, test=test)
        except ValueError as error:
            assert "too few" in str(error)
            return
        assert [*split.train, *split.validation, *split.test] == list(range(n))
        assert len(split.train) > 0

    def test_a_section_in_two_sets_is_an_error(self):
        with pytest.raises(ValueError, match=r"sections \[130\] are in both train and validation"):
            SectionSplit(range(131), range(130, 160), range(165, 200))

    def test_a_gap_is_allowed(self):
        assert len(SectionSplit(range(130), range(135, 160), range(165, 200)).test) == 35

    def test_nothing_to_train_on_is_an_error(self):
        with pytest.raises(ValueError, match="too few"):
            split_sections(2)

    def test_sections_are_a_view_of_the_right_ones(self):
        volume = tissue()
        part = volume.sections(range(2, 4))
        assert part.raw.shape == (2, 60, 64) and np.shares_memory(part.labels, volume.labels)
        np.testing.assert_array_equal(part.raw, volume.raw[2:4])
        with pytest.raises(ValueError, match="6 sections"):
            volume.sections(range(4, 7))

    def test_sections_may_run_backwards(self):
        volume = tissue()
        for chosen in (range(3, -1, -1), range(4, 0, -2)):
            part = volume.sections(chosen)
            np.testing.assert_array_equal(part.labels, volume.labels[list(chosen)])
        patches = [PatchDataset(part, (30, 30), seed=s)[0][1] for s in range(2)]
        assert all(patch.max() >= 2 for patch in patches)


class TestPatches:
    def test_shapes_and_types(self):
        raw, labels = PatchDataset(tissue(), (40, 32), (20, 12))[3]
        assert raw.shape == (1, 40, 32) and raw.dtype == torch.float32
        assert labels.shape == (20, 12) and labels.dtype == torch.int64
        assert raw.min() >= -1 and raw.max() <= 1

    @pytest.mark.parametrize("augment", [None, Augmentation(grey_values=None)])
    @pytest.mark.parametrize(
        ("patch", "output"), [((40, 40), (20, 20)), ((6, 40, 40), (4, 20, 20))]
    )
    def test_labels_are_the_centre_of_the_raw_patch(self, augment, patch, output):
        # In these cells the grey value tells the cell, so each says where the other was taken from.
        for resolution in (SERIAL, ISOTROPIC):
            volume = tissue((20, 60, 64), resolution, cell=17)
            patches = PatchDataset(volume, patch, output, augment=augment)
            cut = [slice((p - o) // 2, (p + o) // 2) for p, o in zip(patch, output, strict=True)]
            compared = 0
            for index in range(20):
                raw, labels = (part.numpy() for part in patches[index])
                centre = raw[(0, *cut)]
                for component in np.unique(labels):
                    inside = labels == component
                    if augment:  # grey values are interpolated at the edges of a cell
                        inside = binary_erosion(inside, np.ones((3,) * labels.ndim))
                    if inside.any():
                        compared += inside.sum()
                        assert np.ptp(centre[inside]) < 1e-5
            assert compared > 1000

    def test_patches_come_from_the_whole_volume_and_not_beyond(self):
        volume, places = tissue((3, 30, 30), cell=5), set()
        # The output is 6 voxels smaller on each side, yet labels of the border are seen.
        patches = PatchDataset(volume, (20, 20), (8, 8), length=300)
        ids = volume.labels.view(np.int64)[0]
        for index in range(300):
            _, labels = patches._draw(np.random.default_rng(index))
            first, last = (np.argwhere(ids == labels[i, i].item()) for i in (0, -1))
            places |= {tuple(first.min(0)), tuple(last.max(0))}
        assert (0, 0) in places and (29, 29) in places

    def test_context_beyond_the_border_is_the_mirror_image(self):
        rng = np.random.default_rng(0)
        raw = rng.integers(0, 256, (1, 12, 12)).astype(np.uint8)
        labels = rng.integers(1, 50, (1, 12, 12)).astype(np.uint64)
        patches = PatchDataset(LabelledVolume(raw, labels, SERIAL), (12, 12), (12, 12))
        whole, _ = patches[0]
        smaller = PatchDataset(LabelledVolume(raw, labels, SERIAL), (12, 12), (4, 4), length=400)
        mirrored = np.pad(whole[0].numpy(), 4, mode="reflect")
        views = np.lib.stride_tricks.sliding_window_view(mirrored, (12, 12)).reshape(-1, 144)
        for index in range(20):
            patch = smaller[index][0].numpy().reshape(-1)
            assert (views == patch).all(axis=1).any()

    def test_patch_depends_on_seed_and_index_only(self):
        volume = tissue()
        augment = Augmentation(elastic_amplitude=3)
        first = PatchDataset(volume, (30, 30), seed=5, augment=augment)
        again = PatchDataset(volume, (30, 30), seed=5, augment=Augmentation(elastic_amplitude=3))
        order = [7, 3, 7, 0]
        torch.manual_seed(1)
        a = {index: first[index] for index in order}
        torch.manual_seed(2)
        b = {index: again[index] for index in reversed(order)}
        for index in order:
            assert torch.equal(a[index][0], b[index][0]) and torch.equal(a[index][1], b[index][1])
        other = PatchDataset(volume, (30, 30), seed=6, augment=augment)
        assert not torch.equal(first[0][0], other[0][0])
        assert not torch.equal(first[0][0], first[1][0])

    def test_workers_give_the_same_batches(self):
        patches = PatchDataset(
            tissue(), (30, 30), augment=Augmentation(elastic_amplitude=3), length=8
        )
        alone = list(DataLoader(patches, batch_size=3))
        helped = list(DataLoader(patches, batch_size=3, num_workers=2))
        assert len(alone) == 3
        for (raw, labels), (raw2, labels2) in zip(alone, helped, strict=True):
            assert torch.equal(raw, raw2) and torch.equal(labels, labels2)

    def test_can_be_pickled(self):
        patches = PatchDataset(tissue(), (30, 30), augment=Augmentation(elastic_amplitude=3))
        again = pickle.loads(pickle.dumps(patches))
        assert torch.equal(patches[4][0], again[4][0])

    def test_blocks_stay_within_their_sections(self):
        volume = tissue((9, 40, 40))
        raw = np.repeat(np.arange(9, dtype=np.uint8), 1600).reshape(9, 40, 40)
        volume = LabelledVolume(raw, volume.labels, ISOTROPIC)
        part = volume.sections(range(3, 8))
        patches = PatchDataset(
            part, (5, 20, 20), (3, 20, 20), augment=Augmentation(grey_values=None, transpose=False,
            elastic_amplitude=0), length=50,
        )  # fmt: skip
        seen = {int(v) for i in range(50) for v in ((patches[i][0] + 1) * 127.5).round().unique()}
        assert seen == {3, 4, 5, 6, 7}

    def test_several_volumes_are_drawn_in_proportion(self):
        large, small = tissue((9, 40, 40)), tissue((3, 40, 40))
        dark = LabelledVolume(np.zeros_like(small.raw), small.labels, SERIAL)
        patches = PatchDataset([large, dark], (20, 20), length=400)
        share = np.mean([bool((patches[i][0] == -1).all()) for i in range(400)])
        assert abs(share - 0.25) < 0.07

    def test_length_and_iteration_end(self):
        patches = PatchDataset(tissue(), (20, 20), length=3)
        assert len(patches) == 3 and len(list(patches)) == 3
        with pytest.raises(IndexError):
            patches[3]

    def test_the_volume_is_left_as_it_was(self):
        volume = tissue()
        raw, labels = volume.raw.copy(), volume.labels.copy()
        volume.raw.flags.writeable = volume.labels.flags.writeable = False
        PatchDataset(volume, (30, 30), augment=Augmentation(elastic_amplitude=3))[0]
        np.testing.assert_array_equal(volume.raw, raw)
        np.testing.assert_array_equal(volume.labels, labels)

    def test_patches_without_two_objects_are_drawn_again(self):
        labels = np.zeros((1, 64, 64), np.uint64)
        labels[0, :6, :6], labels[0, :6, 6:12] = 3, 4  # a small place with two objects
        volume = LabelledVolume(np.zeros((1, 64, 64), np.uint8), labels, SERIAL)
        patches = PatchDataset(volume, (24, 24))
        assert all(patches[i][1].max() >= 2 for i in range(10))

    def test_what_belongs_to_no_object_is_background(self):
        volume = tissue()
        labels = volume.labels.copy()
        labels[:, :, 30:] = 2**64 - 1
        masked = LabelledVolume(volume.raw, labels, volume.resolution, "masked")
        data, zeroed = (
            PatchDataset(LabelledVolume(volume.raw, ids, volume.resolution, "m"), (48, 48))
            for ids in (labels, np.where(labels == 2**64 - 1, np.uint64(0), labels))
        )
        for index in range(3):
            torch.testing.assert_close(data[index][1], zeroed[index][1], rtol=0, atol=0)
        assert (data[0][1] == 0).any()
        assert masked.labels.max() == 2**64 - 1

    def test_it_is_known_by_what_it_holds(self):
        volume = tissue()
        volume.raw[:] += np.arange(6, dtype=np.uint8)[:, None, None]
        other = LabelledVolume(volume.raw.copy(), volume.labels, volume.resolution, volume.name)
        other.raw[0, 0, 0] ^= 1
        parts = [volume.sections(part) for part in (range(3), range(3, 6), range(0, 6, 2))]
        names = [str(describe(PatchDataset(one, (48, 48)))) for one in (volume, other, *parts)]
        assert len(set(names)) == len(names)
        assert str(describe(PatchDataset(volume, (48, 48)))) == names[0]

    def test_redraws_are_bounded(self):
        labels = np.ones((2, 64, 64), np.uint64)
        labels[1] = 2
        volume = LabelledVolume(np.zeros((2, 64, 64), np.uint8), labels, SERIAL)
        with pytest.raises(ValueError, match="fewer than two objects"):
            PatchDataset(volume, (24, 24))[0]


class TestErrors:
    @pytest.mark.parametrize("value", [0, 9, 2**64 - 1])
    def test_labels_with_one_object_only(self, value):
        labels = np.full((2, 32, 32), value, np.uint64)
        labels[0] = 0
        volume = LabelledVolume(np.zeros((2, 32, 32), np.uint8), labels, SERIAL, "mono.hdf")
        with pytest.raises(ValueError, match=r"mono.hdf: .*fewer than two objects"):
            PatchDataset(volume, (16, 16))

    @pytest.mark.parametrize(
        ("patch", "output", "words"),
        [
            ((80, 60), (40, 20), r"\(80, 60\) voxels are larger than the volume of \(60, 64\)"),
            ((8, 30, 30), None, "larger than the volume"),
            ((30, 30), (21, 20), "even number"),
            ((30, 30), (40, 40), "even number"),
            ((30,), None, "must both be"),
            ((30, 30), (3, 20, 20), "must both be"),
        ],
    )
    def test_sizes(self, patch, output, words):
        with pytest.raises(ValueError, match=words):
            PatchDataset(tissue(), patch, output)

    def test_margin_does_not_fit(self):
        with pytest.raises(ValueError, match="margin"):
            PatchDataset(tissue(), (60, 60), augment=Augmentation(grey_values=None))

    def test_shapes_that_disagree(self):
        with pytest.raises(ValueError, match=r"\(2, 3, 3\) and \(2, 3, 4\)"):
            LabelledVolume(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 4), np.uint64), SERIAL)

    def test_resolutions_that_disagree(self):
        with pytest.raises(ValueError, match="one resolution"):
            PatchDataset([tissue(), tissue(resolution=ISOTROPIC)], (20, 20))

    def test_no_volume(self):
        with pytest.raises(ValueError, match="no volume"):
            PatchDataset([], (20, 20))


@pytest.mark.parametrize("name", ["cremi_sample_B_crop", "isbi2012_train", "fib25_train"])
def test_real_volumes(name):
    path = SHARED / f"{name}.hdf"
    if not path.exists():
        pytest.skip(f"{path.name} lies in ../shared/data, which is absent here")
    volume = load_volume(path)
    split = split_sections(len(volume.raw))
    patches = PatchDataset(
        volume.sections(split.train), (164, 164), (76, 76), augment=Augmentation()
    )
    for index in range(5):
        raw, labels = patches[index]
        assert raw.isfinite().all() and 2 <= labels.max() < 1000
        # neighbouring components are different objects or touch at background only
        np.testing.assert_array_equal(relabel_components(labels.numpy()), labels)


class TestMargins:
    def volume(self):
        labels = np.repeat(np.repeat(np.arange(1, 26).reshape(5, 5), 12, 0), 12, 1)
        labels = np.broadcast_to(labels, (3, 60, 60)).astype(np.uint64)
        return LabelledVolume(np.zeros((3, 60, 60), np.uint8), labels, (40.0, 4.0, 4.0))

    def test_of_a_section(self):
        plain = PatchDataset(self.volume(), (30, 30), seed=3)
        grown = PatchDataset(self.volume(), (30, 30), seed=3, boundary=2)
        for index in range(5):
            expected = grow_boundary(plain[index][1].numpy(), 2)
            np.testing.assert_array_equal(grown[index][1].numpy() > 0, expected > 0)
            assert (grown[index][1] == 0).any()

    def test_of_a_block_along_each_axis(self):
        grown = PatchDataset(self.volume(), (3, 30, 30), boundary=(0, 1, 1))
        assert (grown[0][1] > 0).any(0).sum() == (grown[0][1] > 0).all(0).sum()

    def test_an_object_that_falls_apart_is_two(self):
        labels = np.ones((1, 9, 16), np.uint64)
        labels[:, :3] = 2
        labels[:, 3:, 7:9] = 2
        labels[:, 5, 7:9] = 1  # a bridge, one voxel wide
        volume = LabelledVolume(np.zeros((1, 9, 16), np.uint8), labels, (40.0, 4.0, 4.0))
        patch = PatchDataset(volume, (9, 16), boundary=1)[0][1]
        assert patch[7, 2] != patch[7, 12] and patch[7, 2] > 0 and patch[7, 12] > 0

    def test_wrong_steps_are_refused_at_once(self):
        with pytest.raises(ValueError, match="one for each of 2 axes"):
            PatchDataset(self.volume(), (30, 30), boundary=(0, 1, 1))

    def test_a_checkpoint_tells_margins_apart(self):
        plain, grown = (
            describe(PatchDataset(self.volume(), (30, 30), boundary=steps)) for steps in (0, 2)
        )
        assert plain.pop("boundary") == 0 and grown.pop("boundary") == 2 and plain == grown
