import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds
from malis.affinity import nearest_offsets
from malis.segmentation import Hierarchy, ThresholdCurve, agglomerate, best_threshold

FIXTURES = Path(__file__).parents[3] / "../shared/fixtures/cremi"


def random_hierarchy(seed, shape=(4, 9, 10), n=40, background=False):
    rng = np.random.default_rng(seed)
    fragments = rng.integers(0 if background else 1, n, shape)
    affinities = rng.random((3, *shape)).astype(np.float32)
    truth = rng.integers(0, 6, shape)
    truth[:, :4] = fragments[:, :4] // 5
    return agglomerate(affinities, nearest_offsets(3), fragments), truth


def scores_of(segmentation, truth, ignored=()):
    evaluation = NeuronIds(Volume(truth, (1, 1, 1)), ignore_groundtruth=ignored)
    scores = evaluation.whole_volume_scores(segmentation)
    return scores.voi_split, scores.voi_merge, scores.adapted_rand_error, scores.cremi_score


@pytest.mark.parametrize("ignored", [(), (0,), (1, 3)])
@pytest.mark.parametrize("background", [False, True])
def test_every_cut_is_scored_as_by_cremi_eval(ignored, background):
    hierarchy, truth = random_hierarchy(0, background=background)
    threshold, curve = best_threshold(hierarchy, truth, ignore_groundtruth=ignored)
    assert len(curve.thresholds) == len(np.unique(hierarchy.scores)) + 1
    found = np.stack([curve.voi_split, curve.voi_merge, curve.rand, curve.cremi], axis=1)
    expected = [scores_of(hierarchy.cut(t), truth, ignored) for t in curve.thresholds]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert threshold in curve.thresholds
    at_best = scores_of(hierarchy.cut(threshold), truth, ignored)[3]
    assert at_best == pytest.approx(min(scores[3] for scores in expected), rel=1e-9)


@pytest.mark.parametrize(
    ("score", "value"),
    [
        ("cremi", lambda split, merge, rand, cremi: cremi),
        ("voi", lambda split, merge, rand, cremi: split + merge),
        ("rand", lambda split, merge, rand, cremi: rand),
    ],
)
def test_the_best_threshold_minimises_the_score(score, value):
    hierarchy, truth = random_hierarchy(1)
    threshold, _ = best_threshold(hierarchy, truth, score=score)
    cuts = {len(np.unique(c)): c for c in (hierarchy.cut(t) for t in [2, *hierarchy.scores])}
    best = min(value(*scores_of(cut, truth)) for cut in cuts.values())
    assert value(*scores_of(hierarchy.cut(threshold), truth)) == pytest.approx(best)


def one_fragment_each(segmentation):
    """A hierarchy without merges, whose only cut is the given segmentation."""
    _, leaves = np.unique(segmentation, return_inverse=True)
    first = 0 if (segmentation == 0).any() else 1
    leaves = (leaves + first).reshape(segmentation.shape).astype(np.int32)
    return Hierarchy(leaves, int(leaves.max()), np.zeros((0, 2), np.int64), np.zeros(0, np.float32))


REFERENCE_CASES = [
    "perfect",
    "perfect_with_zero",
    "random_independent",
    "random_with_zero",
    "seg_all_unique",
    "seg_one_label",
    "gt_background_maxuint",
    "gt_int64_minus1",
    "gt_zero_and_seg_zero",
    "large_sparse_ids",
    "cremi_noise",
    "cremi_shift_zero",
    "cremi_gt_background",
]


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_scores_are_those_of_cremi_python(case):
    if not FIXTURES.exists():
        pytest.skip("needs reference values that are not part of the repository")
    expected = json.loads((FIXTURES / "expected.json").read_text())["neuron_ids"][case]
    expected = expected["by_border_threshold"]["None"]
    data = np.load(FIXTURES / f"neuron_{case}.npz")
    _, curve = best_threshold(one_fragment_each(data["seg"]), data["gt"])
    found = [curve.voi_split[0], curve.voi_merge[0], curve.rand[0]]
    names = ("voi_split", "voi_merge", "adapted_rand")
    np.testing.assert_allclose(found, [expected[n] for n in names], rtol=1e-9, atol=1e-11)


def test_given_thresholds_are_taken_in_descending_order():
    hierarchy, truth = random_hierarchy(2)
    threshold, curve = best_threshold(hierarchy, truth, thresholds=[0.2, 0.8, 0.5, 0.5])
    np.testing.assert_allclose(curve.thresholds, [0.8, 0.5, 0.2], rtol=1e-6)
    expected = [scores_of(hierarchy.cut(t), truth)[3] for t in (0.8, 0.5, 0.2)]
    np.testing.assert_allclose(curve.cremi, expected, rtol=1e-9)
    assert threshold == pytest.approx([0.8, 0.5, 0.2][int(np.argmin(expected))])


def test_several_sections_share_a_threshold():
    parts = [random_hierarchy(seed) for seed in (3, 4, 5)]
    hierarchies, truths = zip(*parts, strict=True)
    threshold, curve = best_threshold(hierarchies, truths)
    every = [[scores_of(h.cut(t), truth)[3] for h, truth in parts] for t in curve.thresholds]
    np.testing.assert_allclose(curve.cremi, np.mean(every, axis=1), rtol=1e-9)
    assert curve.cremi[curve.thresholds == np.float32(threshold)] == curve.cremi.min()


def test_the_middle_of_a_plateau_is_taken():
    thresholds = np.array([0.9, 0.7, 0.5, 0.3, 0.1], np.float32)
    cremi = np.array([2.0, 1.0, 1.0, 1.0, 3.0])
    assert ThresholdCurve(thresholds, cremi, cremi, cremi, cremi).best() == 2


def test_a_threshold_lies_between_two_scores():
    affinities = np.array([[0, 0.9, 0.2, 0.6]], np.float32)
    hierarchy = agglomerate(affinities, [(-1,)], np.array([1, 2, 3, 4]))
    threshold, curve = best_threshold(hierarchy, np.array([5, 5, 6, 6]))
    np.testing.assert_allclose(curve.thresholds[1:], [0.75, 0.4, 0.1], rtol=1e-6)
    assert curve.thresholds[0] > 0.9
    assert threshold == pytest.approx(0.4)
    assert curve.cremi[2] == 0
    np.testing.assert_allclose(curve.voi_split, [1, 0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(curve.voi_merge, [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(curve.voi, [1, 0.5, 0, 1], atol=1e-12)


def test_tensors_and_huge_ids():
    hierarchy, truth = random_hierarchy(6)
    expected = best_threshold(hierarchy, truth)[1].cremi
    np.testing.assert_array_equal(
        best_threshold(hierarchy, torch.from_numpy(truth))[1].cremi, expected
    )
    huge = truth.astype(np.uint64) + np.uint64(2**64 - 100)
    np.testing.assert_allclose(best_threshold(hierarchy, huge)[1].cremi, expected, rtol=1e-12)


def test_bad_arguments_are_named():
    hierarchy, truth = random_hierarchy(7)
    with pytest.raises(ValueError, match="score must be one of cremi, voi, rand"):
        best_threshold(hierarchy, truth, score="dice")
    with pytest.raises(ValueError, match=r"truth must have shape \(4, 9, 10\)"):
        best_threshold(hierarchy, truth[:2])
    with pytest.raises(TypeError, match="truth must be integers"):
        best_threshold(hierarchy, truth.astype(float))
    with pytest.raises(ValueError, match="ignores every voxel"):
        best_threshold(hierarchy, np.full_like(truth, -1))
    with pytest.raises(ValueError, match="2 hierarchies need as many truths, got 1"):
        best_threshold([hierarchy, hierarchy], [truth])


def test_smoothing_prefers_a_valley_to_a_spike():
    thresholds = np.linspace(0.95, 0.05, 181).astype(np.float32)
    cremi = 0.1 + np.abs(thresholds - 0.4).astype(float)
    spike = int(np.argmin(np.abs(thresholds - 0.7)))
    cremi[spike] = 0.05
    curve = ThresholdCurve(thresholds, cremi, cremi, cremi, cremi)
    assert curve.best() == spike
    assert abs(thresholds[curve.best(smoothing=0.15)] - 0.4) < 0.02


def test_smoothing_weighs_thresholds_by_how_far_they_lie_apart():
    """Many thresholds close together are one place of the curve, not many."""
    crowd = np.linspace(0.301, 0.3, 200)
    thresholds = np.concatenate([[0.9, 0.5], crowd, [0.29, 0.1]]).astype(np.float32)
    cremi = np.concatenate([[1.0, 0.2], np.full(200, 0.25), [0.9, 0.9]])
    curve = ThresholdCurve(thresholds, cremi, cremi, cremi, cremi)
    assert thresholds[curve.best(smoothing=0.1)] == 0.5


def test_smoothing_of_one_threshold_and_by_nothing():
    one = np.array([0.5], np.float32), np.array([0.3])
    assert ThresholdCurve(one[0], *[one[1]] * 4).best(smoothing=0.2) == 0
    with pytest.raises(ValueError, match="smoothing must not be negative"):
        ThresholdCurve(one[0], *[one[1]] * 4).best(smoothing=-1)
