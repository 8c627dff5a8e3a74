import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import grey_dilation, grey_erosion

import malis
from malis.labels import grow_boundary, relabel_components
from malis.training.dataset import LabelledVolume, PatchDataset


def test_a_square_by_hand():
    labels = np.array(
        [
            [1, 1, 1, 2, 2],
            [1, 1, 1, 2, 2],
            [1, 1, 1, 2, 2],
            [3, 3, 0, 2, 2],
        ]
    )
    assert grow_boundary(labels).tolist() == [
        [1, 1, 0, 0, 2],
        [1, 1, 0, 0, 2],
        [0, 0, 0, 0, 2],
        [0, 0, 0, 0, 2],
    ]
    assert grow_boundary(labels, (0, 1)).tolist() == [
        [1, 1, 0, 0, 2],
        [1, 1, 0, 0, 2],
        [1, 1, 0, 0, 2],
        [3, 0, 0, 0, 2],
    ]


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 3), elements=st.integers(0, 3)),
    st.integers(0, 3),
)
def test_a_voxel_stays_if_its_neighbours_within_the_steps_are_of_its_object(labels, steps):
    cross = np.abs(np.indices((2 * steps + 1,) * 3) - steps).sum(0) <= steps
    wide = labels.astype(int)  # beyond the faces, the outermost voxel is continued
    highest = grey_dilation(wide, footprint=cross, mode="nearest")
    lowest = grey_erosion(wide, footprint=cross, mode="nearest")
    expected = np.where(highest == lowest, labels, 0)
    grown = grow_boundary(labels, steps)
    np.testing.assert_array_equal(grown, expected)
    assert grown.dtype == labels.dtype


def test_the_argument_is_not_changed_and_huge_ids_survive():
    labels = np.full((4, 6), 2**64 - 2, np.uint64)
    labels[:, 3:] = 2**63
    before = labels.copy()
    grown = grow_boundary(labels)
    np.testing.assert_array_equal(labels, before)
    assert grown[0].tolist() == [2**64 - 2, 2**64 - 2, 0, 0, 2**63, 2**63]


@pytest.mark.parametrize(
    ("labels", "steps", "error", "words"),
    [
        (torch.zeros(3, 3, dtype=int), 1, TypeError, "must be a NumPy array, got Tensor"),
        (np.zeros((3, 3)), 1, TypeError, "labels must be integers, got float64"),
        (np.zeros((3, 3), int), 1.5, TypeError, "steps must be integers, got float64"),
        (np.zeros((3, 3), int), (1, 0.5), TypeError, "steps must be integers, got float64"),
        (np.zeros((3, 3), int), -1, ValueError, "at least 0, one for each of 2 axes, got -1"),
        (np.zeros((3, 3), int), (0, 1, 1), ValueError, r"each of 2 axes, got \(0, 1, 1\)"),
    ],
)
def test_nonsense_is_refused(labels, steps, error, words):
    with pytest.raises(error, match=words):
        grow_boundary(labels, steps)


def test_a_border_one_voxel_off_costs_the_perfect_prediction_nothing():
    """The reason for all this: one voxel beyond the membrane undoes every other edge of it."""
    truth = np.ones((9, 12), int)
    truth[:, 6:] = 2
    offsets = malis.nearest_offsets(2)
    membrane = torch.from_numpy(malis.affinities_from_labels(truth, offsets)).float()[None]
    drawn = truth.copy()
    drawn[4, 6] = 1  # whoever drew this slipped by a voxel
    loss = malis.MalisLoss(offsets)

    def cost(labels):
        return loss(membrane, torch.from_numpy(labels)[None]).item()

    assert cost(truth) == 0
    assert cost(drawn) > 0.5  # all pairs of the two objects are lost through that voxel
    assert cost(grow_boundary(drawn)) == 0


class TestPatches:
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

    def test_a_checkpoint_tells_margins_apart_and_knows_older_ones(self):
        """Checkpoints compare datasets by their names; those of before know of no margin."""
        plain, grown = (repr(PatchDataset(self.volume(), (30, 30), boundary=b)) for b in (0, 2))
        assert "boundary" not in plain and "boundary=2" in grown
        assert grown.replace("boundary=2, ", "") == plain


class TestGrowBoundaryLoss:
    OFFSETS = malis.nearest_offsets(2)

    def test_is_the_loss_of_patches_with_a_margin(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(1, 4, (3, 4, 4)).repeat(6, axis=1).repeat(6, axis=2)
        labels[0, :, 3] = labels[0, 0, 0]  # one object touches itself around others
        values = torch.rand(3, 2, 24, 24, generator=torch.Generator().manual_seed(0))
        affinities = values.requires_grad_()
        plain = malis.MalisLoss(self.OFFSETS, reduction="none")
        loss = malis.GrowBoundaryLoss(plain, 2)(affinities, torch.from_numpy(labels))
        loss.sum().backward()
        found = affinities.grad.clone()
        affinities.grad = None
        margin = np.stack([relabel_components(grow_boundary(one, 2)) for one in labels])
        expected = plain(affinities, torch.from_numpy(margin))
        expected.sum().backward()
        assert torch.equal(loss, expected)
        assert torch.equal(found, affinities.grad)
        assert not torch.equal(loss, plain(affinities, torch.from_numpy(labels)))

    def test_steps_along_each_axis_around_windows(self):
        labels = torch.arange(4).repeat_interleave(8).repeat(32, 1)[None]
        affinities = torch.full((1, 2, 32, 32), 0.6)
        windows = malis.WindowLoss(malis.MalisLoss(self.OFFSETS), 16)
        across = malis.GrowBoundaryLoss(windows, (0, 1))(affinities, labels)
        grown = torch.from_numpy(grow_boundary(labels.numpy(), (0, 0, 1)))
        assert torch.equal(across, windows(affinities, grown))
        along = malis.GrowBoundaryLoss(windows, (1, 0))(affinities, labels)
        assert torch.equal(along, windows(affinities, labels))  # no border runs across y

    def test_bad_labels_are_refused(self):
        loss = malis.GrowBoundaryLoss(malis.MalisLoss(self.OFFSETS))
        affinities = torch.rand(1, 2, 8, 8)
        with pytest.raises(ValueError, match="labels must not be negative, got -1"):
            loss(affinities, torch.full((1, 8, 8), -1))
        with pytest.raises(ValueError, match=r"labels must have shape \(1, 8, 8\)"):
            loss(affinities, torch.ones(1, 8, 9, dtype=torch.int64))

    def test_masks_are_passed_on(self):
        plain = malis.MalisLoss(self.OFFSETS)
        affinities = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(8).repeat(1, 8, 1) // 4 + 1
        masks = {"edge_mask": torch.ones(1, 2, 8, 8), "labelled_mask": torch.ones(1, 8, 8)}
        masks["edge_mask"][..., 3:] = masks["labelled_mask"][:, :3] = 0
        found = malis.GrowBoundaryLoss(plain)(affinities, labels, **masks)
        grown = torch.from_numpy(grow_boundary(labels[0].numpy()))[None]
        assert found == plain(affinities, grown, **masks) != plain(affinities, grown)

    def test_steps_may_be_numbers_of_numpy(self):
        loss = malis.GrowBoundaryLoss(malis.MalisLoss(self.OFFSETS), np.int64(2))
        assert loss.steps == 2 and type(loss.steps) is int

    def test_bad_steps_are_refused(self):
        plain = malis.MalisLoss(self.OFFSETS)
        for steps, error in ((-1, ValueError), ((1, -1), ValueError), (1.5, TypeError)):
            with pytest.raises(error):
                malis.GrowBoundaryLoss(plain, steps)
        loss = malis.GrowBoundaryLoss(plain, (1, 1, 1))
        with pytest.raises(ValueError, match="one for each of 3 axes"):
            loss(torch.rand(1, 2, 8, 8), torch.ones(1, 8, 8, dtype=torch.int64))
