"""Segmentations of 16 voxels whose scores can be computed by hand."""

from functools import partial
from math import log2, sqrt

import numpy as np
import pytest

from cremi_eval import Volume
from cremi_eval._slabs import slabs
from cremi_eval.evaluation import (
    NeuronIds,
    adapted_rand,
    cremi_score,
    mean_of_sections,
    voi,
    worst_merges,
    worst_splits,
)

TWO = np.repeat([[1, 1, 2, 2]], 4, axis=0)[None]  # two objects of 8 voxels
THREE = TWO.copy()
THREE[0, :2, :2] = 3  # the left one cut into 4 + 4
ONE = np.ones_like(TWO)
SINGLE = np.arange(1, 17).reshape(TWO.shape)
SHIFTED = np.repeat([[1, 2, 2, 2]], 4, axis=0)[None]


def volume(labels):
    return Volume(labels.astype(np.uint64), (40.0, 4.0, 4.0))


def scores(truth, seg, border=None):
    return NeuronIds(volume(truth), border).whole_volume_scores(volume(seg))


@pytest.mark.parametrize(
    "truth, seg, split, merge, precision, recall",
    [
        (TWO, TWO, 0, 0, 1, 1),
        (TWO, 7 - TWO, 0, 0, 1, 1),  # relabelled
        (TWO, THREE, 8 / 16 * 1, 0, 1, 96 / 128),  # half of the voxels lose one bit
        (THREE, TWO, 0, 8 / 16 * 1, 96 / 128, 1),  # the same the other way round
        (TWO, ONE, 0, 1, 128 / 256, 1),  # all merged
        (TWO, SINGLE, log2(8), 0, 1, 16 / 128),  # all split
        # border shifted by a pixel: of object 1, 4 voxels are in segment 1 and 4 in segment 2
        (TWO, SHIFTED, 0.5, 12 / 16 * (log2(3) - 2 / 3), 96 / 160, 96 / 128),
    ],
    ids=["perfect", "relabelled", "split", "merge", "all merged", "all split", "shifted"],
)
def test_scores_by_hand(truth, seg, split, merge, precision, recall):
    result = scores(truth, seg)
    error = 1 - 2 * precision * recall / (precision + recall)
    assert result.voi_split == pytest.approx(split)
    assert result.voi_merge == pytest.approx(merge)
    assert result.voi_sum == pytest.approx(split + merge)
    assert result.rand_precision == pytest.approx(precision)
    assert result.rand_recall == pytest.approx(recall)
    assert result.adapted_rand_error == pytest.approx(error)
    assert result.cremi_score == pytest.approx(sqrt((split + merge) * error))
    assert result.cremi_score == cremi_score(result.voi_split, result.voi_merge, error)


def test_a_shifted_border_is_forgiven_within_the_threshold():
    assert scores(TWO, SHIFTED, border=3).voi_sum == 0  # columns 1 and 2 are border pixels
    assert scores(TWO, SHIFTED, border=0).voi_sum > 1  # 0 masks nothing, as in cremi_python


def test_label_zero():
    halves = TWO - 1  # labels 0 and 1
    perfect = scores(halves, halves)
    assert perfect.voi_sum == 0
    assert perfect.rand_precision == 1
    assert perfect.rand_recall == pytest.approx((8**2 + 8 / 16) / (8**2 + 8**2))
    # the bare functions ignore truth 0 ...
    assert voi(ONE, halves) == (0, 0)
    assert voi(ONE, halves, ignore_groundtruth=()) == (0, 1)
    assert adapted_rand(ONE, halves) == 0
    # ... and NeuronIds only where it is told to
    assert NeuronIds(volume(halves)).voi(ONE) == (0, 1)
    assert NeuronIds(volume(halves), ignore_groundtruth=[0]).voi(ONE) == (0, 0)


def test_ignored_labels():
    truth = TWO.astype(np.int64)
    truth[truth == 2] = -1
    assert NeuronIds(Volume(truth, (40, 4, 4))).voi(THREE) == (1, 0)  # only object 1 counts
    narrow = np.where(TWO == 2, 255, 1).astype(np.uint8)
    assert NeuronIds(Volume(narrow, (40, 4, 4))).voi(ONE) == (0, 1)  # 255 is an object
    bordered = NeuronIds(Volume(narrow, (40, 4, 4)), border_threshold=3)
    assert bordered.contingency_table(ONE).n_counted == 8
    assert voi(THREE, TWO, ignore_reconstruction=[3]) == (0, 0)
    assert voi(THREE, truth, ignore_groundtruth=[-1]) == (1, 0)
    assert voi(THREE, truth, ignore_groundtruth=[2**64 - 1]) == (1, 0)


def test_sections_and_volume_are_different_scores():
    truth = np.concatenate([TWO, TWO])
    seg = np.concatenate([TWO, TWO + 2])  # every section is perfect, no object continues
    evaluation = NeuronIds(volume(truth))
    assert mean_of_sections(evaluation.section_scores(volume(seg))).voi_sum == 0
    assert evaluation.whole_volume_scores(volume(seg)).voi_split == 1

    seg = np.concatenate([THREE, ONE])
    first, second = evaluation.section_scores(volume(seg))
    assert (first.voi_split, first.voi_merge) == (0.5, 0)
    assert (second.voi_split, second.voi_merge) == (0, 1)
    mean = mean_of_sections([first, None, second])
    assert (mean.voi_split, mean.voi_merge, mean.voi_sum) == (0.25, 0.5, 0.75)
    assert mean.cremi_score == pytest.approx((sqrt(0.5 / 7) + sqrt(1 / 3)) / 2)


def test_sections_without_anything_to_evaluate_are_left_out():
    truth = np.concatenate([TWO, TWO]).astype(np.uint64)
    truth[0] = 2**64 - 1
    first, second = NeuronIds(volume(truth), 3).section_scores(volume(np.concatenate([ONE, TWO])))
    assert first is None and second.voi_sum == 0
    with pytest.raises(ValueError, match="no section"):
        mean_of_sections([None])


def test_sections_are_found_again_in_every_slab(monkeypatch):
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.integers(1, 9, (7, 6, 6)), 4, axis=1), 4, axis=2)
    truth[3] = 5  # no border but the corner
    seg = rng.integers(1, 4, truth.shape)
    alone = [
        NeuronIds(volume(truth[z : z + 1]), 6).whole_volume_scores(volume(seg[z : z + 1]))
        for z in range(7)
    ]
    assert NeuronIds(volume(truth), 6).section_scores(volume(seg)) == alone
    small = partial(slabs, max_bytes=2 * truth[0].nbytes)
    monkeypatch.setattr("cremi_eval.evaluation.neuron_ids.slabs", small)
    monkeypatch.setattr("cremi_eval.evaluation.border.slabs", small)
    assert NeuronIds(volume(truth), 6).section_scores(volume(seg)) == alone


def test_worst_objects():
    table = NeuronIds(volume(TWO)).contingency_table(SHIFTED)
    (split,) = worst_splits(table)
    assert (split.id, split.voi, split.voxels) == (1, 0.5, 8)
    assert split.parts == [(1, 4), (2, 4)]
    (merge,) = worst_merges(table)
    assert (merge.id, merge.voxels, merge.parts) == (2, 12, [(2, 8), (1, 4)])
    assert merge.voi == pytest.approx(0.75 * (log2(3) - 2 / 3))

    table = NeuronIds(volume(TWO)).contingency_table(SINGLE)
    assert [error.id for error in worst_splits(table)] == [1, 2]
    assert [error.voi for error in worst_splits(table, n=1)] == [1.5]
    assert worst_merges(table) == []


def test_worst_objects_come_in_order():
    truth, seg = np.ones((1, 1, 8)), np.array([[[1, 1, 1, 1, 2, 2, 3, 3]]])
    truth[..., 4:] = 2
    truth[..., 7] = 3
    worst = worst_splits(NeuronIds(volume(truth)).contingency_table(volume(seg)))
    assert [(error.id, error.parts) for error in worst] == [(2, [(2, 2), (3, 1)])]

    objects = np.repeat(np.random.default_rng(0).permutation(100), 2).reshape(10, 1, 20)
    halves = np.arange(200).reshape(10, 1, 20)
    worst = worst_splits(NeuronIds(volume(objects)).contingency_table(volume(halves)), n=100)
    assert [error.id for error in worst] == list(range(100))  # all equally bad
