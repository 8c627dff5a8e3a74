import numpy as np
import pytest
import torch
from scipy import ndimage

import malis
from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds
from malis.segmentation import best_threshold
from malis.segmentation.threshold import NO_MERGE
from malis.training.dataset import LabelledVolume
from malis.training.validation import validation_scores
from unet.geometry import plain_geometry
from unet.network import FullyConvolutional


class Membranes(FullyConvolutional):
    """A network that knows the answer: bright voxels are connected, dark ones are not."""

    def __init__(self, ndim):
        super().__init__(ndim, 1, ndim, plain_geometry([(1,) * ndim]))
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (x * 6 * self.weight).expand(-1, self.out_channels, *x.shape[2:])


def cells(n_sections=2):
    """Two cells in each section, with a membrane of two voxels, and the same ids in all."""
    labels = np.ones((n_sections, 16, 32), np.uint64)
    labels[:, :, 17:] = 2
    raw = np.full(labels.shape, 255, np.uint8)
    raw[:, :, 16:18] = 0
    return raw, labels


def volume(raw, labels):
    return LabelledVolume(raw, labels, (40.0, 40.0, 40.0))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_perfect_network_scores_almost_nothing(ndim):
    scores = validation_scores(Membranes(ndim), [volume(*cells(8))], malis.nearest_offsets(ndim))
    assert set(scores) == {
        "threshold", "inside", "voi_split", "voi_merge", "adapted_rand_error", "cremi_score"
    }  # fmt: skip
    assert scores["voi_split"] + scores["voi_merge"] < 0.35
    assert 0 < scores["threshold"] <= NO_MERGE + 1e-6  # the fragments are the cells already


def test_the_same_numbers_as_cremi_eval():
    raw, labels = cells()
    labels[:, :4, :8] = 3  # an object without a membrane, which no threshold finds
    offsets = malis.nearest_offsets(2)
    scores = validation_scores(Membranes(2), [volume(raw, labels)], offsets)
    affinities = malis.inference.predict(Membranes(2), raw, progress=False)
    segments = np.stack(
        [
            malis.segment(one, offsets, threshold=scores["threshold"], inside=scores["inside"])
            for one in np.moveaxis(affinities, 1, 0)
        ]
    )
    sections = NeuronIds(Volume(labels)).section_scores(segments)
    for name in ("voi_split", "voi_merge", "adapted_rand_error", "cremi_score"):
        assert scores[name] == pytest.approx(np.mean([getattr(one, name) for one in sections]))
    assert scores["voi_merge"] > 0.1


def test_the_threshold_is_chosen_on_what_segment_cuts(monkeypatch):
    """With oblong pixels, too: distances are those of the tissue, not of the grid."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(3).random((1, 60, 90)), (0, 2, 2))
    raw = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    labels = np.ones(raw.shape, np.uint64)
    seen = []

    def choose(hierarchies, truths, **settings):
        seen.extend(hierarchies)
        return best_threshold(hierarchies, truths, **settings)

    monkeypatch.setattr("malis.segmentation.threshold.best_threshold", choose)
    offsets = malis.nearest_offsets(2)
    part = LabelledVolume(raw, labels, (40.0, 8.0, 4.0))
    inside = validation_scores(Membranes(2), [part], offsets)["inside"]
    section = malis.inference.predict(Membranes(2), raw, progress=False)[:, 0]
    settings = {"threshold": NO_MERGE, "inside": inside}
    cut = malis.segment(section, offsets, sampling=(8.0, 4.0), **settings)
    assert any(np.array_equal(hierarchy.cut(NO_MERGE), cut) for hierarchy in seen)
    assert cut.max() != malis.segment(section, offsets, **settings).max()


def test_a_2d_network_with_affinities_across_sections_is_scored_in_3d():
    raw, labels = cells(6)
    labels[3:, :, :16] = 3  # where nothing shows that one cell ends and another begins
    network = Membranes(2)
    network.out_channels = 3
    scores = validation_scores(network, [volume(raw, labels)], malis.nearest_offsets(3))
    affinities = malis.inference.predict(network, raw, progress=False)
    choice = {name: scores[name] for name in ("inside", "threshold")}
    found = malis.segment(affinities, malis.nearest_offsets(3), sampling=(40, 40, 40), **choice)
    expected = NeuronIds(Volume(labels)).whole_volume_scores(found)
    for name in ("voi_split", "voi_merge", "adapted_rand_error", "cremi_score"):
        assert scores[name] == pytest.approx(getattr(expected, name))
    assert scores["voi_split"] + scores["voi_merge"] > 0.3  # sections alone would have no error


def test_what_is_left_out_costs_nothing():
    raw, labels = cells()
    network, offsets = Membranes(2), malis.nearest_offsets(2)
    whole = validation_scores(network, [volume(raw, labels)], offsets)
    for wrong in (7, 2**64 - 1):
        other = labels.copy()
        other[:, :8] = wrong  # joins both cells
        scored = np.where(other == wrong, np.uint64(9), other)
        costly = validation_scores(network, [volume(raw, scored)], offsets)
        ignored = validation_scores(network, [volume(raw, other)], offsets, ignore=[7])
        assert costly["cremi_score"] > 2 * whole["cremi_score"]
        assert ignored["cremi_score"] == pytest.approx(whole["cremi_score"], abs=0.05)


def test_negative_ids_are_left_out_like_the_ones_that_they_stand_for():
    raw, labels = cells()
    labels[:, :8] = 2**64 - 3
    network, offsets = Membranes(2), malis.nearest_offsets(2)
    expected = validation_scores(network, [volume(raw, labels)], offsets, ignore=[2**64 - 3])
    assert validation_scores(network, [volume(raw, labels)], offsets, [-1, -3]) == expected


def test_pieces_that_do_not_touch_are_objects_of_their_own():
    raw, labels = cells()
    labels[:, :, 16:18] = 0
    network, offsets = Membranes(2), malis.nearest_offsets(2)
    apart = validation_scores(network, [volume(raw, labels)], offsets, ignore=[0])
    one = validation_scores(network, [volume(raw, np.minimum(labels, 1))], offsets, ignore=[0])
    assert apart == one and apart["cremi_score"] == 0


def test_a_section_without_an_object_has_no_part_in_it():
    raw, labels = cells(3)
    network, offsets = Membranes(2), malis.nearest_offsets(2)
    two = validation_scores(network, [volume(raw[:2], labels[:2])], offsets, ignore=[0])
    labels[2] = 0
    assert validation_scores(network, [volume(raw, labels)], offsets, ignore=[0]) == two


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no volume to validate on"):
        validation_scores(Membranes(2), [], malis.nearest_offsets(2))
    raw, labels = cells()
    with pytest.raises(ValueError, match="ignores every voxel"):
        validation_scores(
            Membranes(2), [volume(raw, labels)], malis.nearest_offsets(2), ignore=[1, 2]
        )
