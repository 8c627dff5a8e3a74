"""The numbers of cremi_python itself, see tests/fixtures/cremi."""

import json
from pathlib import Path

import numpy as np
import pytest

from cremi_eval import Annotations, Volume
from cremi_eval.evaluation import (
    Clefts,
    NeuronIds,
    SynapticPartners,
    adapted_rand,
    create_border_mask,
    create_border_mask_2d,
    voi,
)
from cremi_eval.evaluation.partners import cost_matrix
from cremi_eval.io import CremiFile

HERE = Path(__file__).parents[1] / "fixtures/cremi"
SHARED = Path(__file__).parents[2] / "../shared/fixtures/cremi"  # real labels stay there
EXPECTED = json.loads((HERE / "expected.json").read_text())
NEURONS = EXPECTED["neuron_ids"]
BARE = "bare_functions_on_raw_labels"
close = {"rtol": 1e-9, "atol": 1e-12}


def neuron_case(name):
    file = NEURONS[name]["file"]
    path = HERE / file if (HERE / file).exists() else SHARED / file
    if not path.exists():
        pytest.skip(f"{file} holds real labels, which are only in ../shared/fixtures")
    case = np.load(path)
    return (Volume(case[key], tuple(case["resolution"])) for key in ("gt", "seg"))


@pytest.mark.parametrize("threshold", ["None", "10", "25"])
@pytest.mark.parametrize("name", NEURONS)
def test_neuron_ids(name, threshold):
    truth, seg = neuron_case(name)
    expected = NEURONS[name]["by_border_threshold"][threshold]
    evaluation = NeuronIds(truth, None if threshold == "None" else float(threshold))
    table = evaluation.contingency_table(seg)
    assert truth.data.size - table.n_counted == expected["n_ignored"]
    if expected["adapted_rand"] == "nan":
        assert np.isnan(evaluation.adapted_rand(seg, all_stats=True)).all()
        with pytest.raises(ZeroDivisionError, match="no voxel to evaluate"):
            evaluation.voi(seg)
        with pytest.raises(ZeroDivisionError):
            evaluation.whole_volume_scores(seg)
        return
    rand = [expected[key] for key in ("adapted_rand", "rand_precision", "rand_recall")]
    voi_expected = [expected["voi_split"], expected["voi_merge"]]
    np.testing.assert_allclose(evaluation.voi(seg), voi_expected, **close)
    np.testing.assert_allclose(evaluation.adapted_rand(seg), rand[0], **close)
    np.testing.assert_allclose(evaluation.adapted_rand(seg, all_stats=True), rand, **close)
    scores = evaluation.whole_volume_scores(seg)
    np.testing.assert_allclose([scores.voi_split, scores.voi_merge], voi_expected, **close)
    np.testing.assert_allclose(
        [scores.adapted_rand_error, scores.rand_precision, scores.rand_recall], rand, **close
    )
    np.testing.assert_allclose(scores.cremi_score, np.sqrt(sum(voi_expected) * rand[0]), **close)


@pytest.mark.parametrize(
    "name", [n for n in NEURONS if "bare_functions_on_raw_labels" in NEURONS[n]]
)
def test_bare_functions_ignore_zero(name):
    truth, seg = neuron_case(name)
    expected = NEURONS[name][BARE]
    np.testing.assert_allclose(voi(seg.data, truth.data), expected["voi"], **close)
    np.testing.assert_allclose(
        adapted_rand(seg.data, truth.data, True), expected["adapted_rand_prec_rec"], **close
    )
    assert adapted_rand(seg.data, truth.data) == adapted_rand(seg.data, truth.data, True)[0]


@pytest.mark.parametrize("key", EXPECTED["border_mask"])
def test_border_mask(key):
    masks = np.load(HERE / "border_mask.npz")
    name, distance, axis = key.split("_")
    labels, expected = masks[f"{name}_in"], masks[key]
    axis, distance, background = int(axis.removeprefix("axis")), float(distance[1:]), 2**64 - 1
    before, target = labels.copy(), np.zeros_like(labels)
    create_border_mask(labels, target, distance, background, axis=axis)
    np.testing.assert_array_equal(target, np.where(expected, np.uint64(background), labels))
    np.testing.assert_array_equal(labels, before)
    assert expected.sum() == EXPECTED["border_mask"][key]
    for index, mask in enumerate(np.moveaxis(expected, axis, 0)):
        section = labels.take(index, axis)
        np.testing.assert_array_equal(create_border_mask_2d(section, distance), mask)


@pytest.mark.parametrize("name", EXPECTED["clefts"])
def test_clefts(name):
    volumes, expected = np.load(HERE / "clefts.npz"), EXPECTED["clefts"][name]
    test, truth = (Volume(volumes[f"{name}_{key}"], (40, 4, 4)) for key in ("test", "truth"))
    clefts = Clefts(test, truth)
    for threshold in (0, 20, 50, 200):
        assert clefts.count_false_positives(threshold) == expected[f"false_positives_{threshold}"]
        assert clefts.count_false_negatives(threshold) == expected[f"false_negatives_{threshold}"]
    assert clefts.count_false_positives() == expected["false_positives_200"]
    assert clefts.count_false_negatives() == expected["false_negatives_200"]
    for key, summary, other_is_empty in (
        ("acc_false_positives", clefts.acc_false_positives, clefts.truth_clefts_mask.all()),
        ("acc_false_negatives", clefts.acc_false_negatives, clefts.test_clefts_mask.all()),
    ):
        if "raises" in expected[key]:
            assert expected[key]["raises"] == "ValueError"
            with pytest.raises(ValueError, match="no distances to summarise"):
                summary()
        elif other_is_empty:  # a deliberate difference: the reference measures to a phantom point
            stats = summary()
            assert stats["count"] == expected[key]["count"]
            assert stats["mean"] == stats["max"] == stats["median"] == np.inf
            assert np.isnan(stats["std"])
        else:
            assert summary() == pytest.approx(expected[key], rel=1e-9)


def annotations(case):
    result = Annotations(case["offset"])
    for row in zip(case["ids"], case["types"], case["locations"], strict=True):
        result.add_annotation(*row)
    for pre, post in case["partners"]:
        result.set_pre_post_partners(pre, post)
    return result


@pytest.mark.parametrize("name", EXPECTED["synaptic_partners"])
def test_synaptic_partners(name):
    expected = EXPECTED["synaptic_partners"][name]
    case = json.loads((HERE / "synapse_annotations.json").read_text())[name]
    stored = np.load(HERE / "synapse_segmentation.npz")
    rec, truth = annotations(case["rec"]), annotations(case["gt"])
    seg = Volume(stored["neuron_ids"], stored["resolution"], expected["segmentation_offset"])
    threshold = expected["matching_threshold"]
    evaluation = SynapticPartners(threshold)

    if expected.get("raises") in ("ValueError", "IndexError"):
        with pytest.raises(ValueError if name == "both_empty" else IndexError):
            evaluation.fscore(rec, truth, seg)
        return
    costs = cost_matrix(rec, truth, seg, threshold)
    assert (costs <= threshold).sum() == expected["n_potential"]
    stats = evaluation.fscore(rec, truth, seg, all_stats=True)
    assert evaluation.fscore(rec, truth, seg) == stats.fscore
    if expected.get("raises") == "ZeroDivisionError":  # a deliberate difference: nothing matched
        assert stats.fscore == 0 and stats.matches == []
        assert stats.fp == len(rec.pre_post_partners) and stats.fn == len(truth.pre_post_partners)
        assert stats.precision == 0 if stats.fp else np.isnan(stats.precision)
        assert stats.recall == 0 if stats.fn else np.isnan(stats.recall)
        return
    fscore, precision, recall, fp, fn, matches = stats
    assert (fp, fn) == (expected["fp"], expected["fn"])
    for value, key in ((fscore, "fscore"), (precision, "precision"), (recall, "recall")):
        assert value == pytest.approx(expected[key], rel=1e-9)
    ours, theirs = np.array(matches), np.array(expected["matches"])
    np.testing.assert_allclose(np.sort(ours[:, 2]), np.sort(theirs[:, 2]), **close)
    if name not in ("duplicate_partner_rows", "two_by_two_both_orders"):  # ties are arbitrary
        np.testing.assert_allclose(ours, theirs, **close)


def test_a_pair_of_files():
    expected = EXPECTED["hdf_pair"]
    with CremiFile(HERE / "test.hdf", "r") as test, CremiFile(HERE / "truth.hdf", "r") as truth:
        seg = test.read_neuron_ids()
        evaluation = NeuronIds(truth.read_neuron_ids())
        np.testing.assert_allclose(evaluation.voi(seg), expected["voi"], **close)
        assert evaluation.adapted_rand(seg) == pytest.approx(expected["adapted_rand"], rel=1e-9)
        bordered = NeuronIds(truth.read_neuron_ids(), border_threshold=25)
        np.testing.assert_allclose(bordered.voi(seg), expected["border25"]["voi"], **close)
        rand = expected["border25"]["adapted_rand"]
        assert bordered.adapted_rand(seg) == pytest.approx(rand, rel=1e-9)

        clefts = Clefts(test.read_clefts(), truth.read_clefts())
        assert clefts.count_false_positives() == expected["clefts"]["false_positives"]
        assert clefts.count_false_negatives() == expected["clefts"]["false_negatives"]
        for key in ("acc_false_positives", "acc_false_negatives"):
            assert getattr(clefts, key)() == pytest.approx(expected["clefts"][key], rel=1e-9)

        partners = SynapticPartners().fscore(
            test.read_annotations(), truth.read_annotations(), truth.read_neuron_ids(), True
        )
        for key in ("fscore", "precision", "recall", "fp", "fn"):
            value = expected["synaptic_partners"][key]
            assert getattr(partners, key) == pytest.approx(value, rel=1e-9)
        np.testing.assert_allclose(partners.matches, expected["synaptic_partners"]["matches"])
