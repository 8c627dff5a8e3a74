import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from cremi_eval import Annotations, Volume
from cremi_eval.evaluation import (
    Clefts,
    NeuronIds,
    SynapticPartners,
    contingency_table,
    create_and_write_masked_neuron_ids,
    create_border_mask,
    create_border_mask_2d,
    voi,
)
from cremi_eval.io import CremiFile

ROOT = Path(__file__).parents[2]
LABELS = np.arange(24, dtype=np.uint64).reshape(2, 3, 4)
BACKGROUND = 2**64 - 1


def volume(data=LABELS, resolution=(40, 4, 4)):
    return Volume(data, resolution)


@pytest.mark.parametrize("score", ["voi", "adapted_rand", "whole_volume_scores", "section_scores"])
def test_grids_that_disagree(score):
    score = getattr(NeuronIds(volume()), score)
    with pytest.raises(ValueError, match=r"segmentation has shape \(2, 3, 3\), .* \(2, 3, 4\)"):
        score(volume(LABELS[..., :3]))
    with pytest.raises(ValueError, match="segmentation has resolution"):
        score(volume(resolution=(50, 4, 4)))


def test_labels_that_are_no_labels():
    with pytest.raises(TypeError, match=r"segmentation must be integers, got float64"):
        NeuronIds(volume()).voi(volume(LABELS.astype(float)))
    with pytest.raises(TypeError, match=r"ground truth must be integers, got float32"):
        NeuronIds(volume(LABELS.astype(np.float32))).voi(volume())
    signed = LABELS.astype(np.int64)
    with pytest.raises(ValueError, match="segmentation has the negative label -1"):
        NeuronIds(volume()).voi(volume(signed - 1))
    with pytest.raises(ValueError, match="ground truth has the negative label -2"):
        NeuronIds(volume(signed - 2)).voi(volume())
    with pytest.raises(TypeError, match="groundtruth must be a Volume, got ndarray"):
        NeuronIds(LABELS)
    with pytest.raises(ValueError, match="no voxel to compare"):
        voi(LABELS[:0], LABELS[:0])
    with pytest.raises(ValueError, match="differ in shape"):
        contingency_table(LABELS, LABELS, ignored=np.zeros((2, 3, 3), bool))
    with pytest.raises(ValueError, match=r"sections need volumes \(z, y, x\)"):
        NeuronIds(Volume(LABELS[0])).section_scores(LABELS[0])


def test_borders_that_cannot_be_measured():
    with pytest.raises(ValueError, match="square pixels"):
        NeuronIds(volume(resolution=(40, 4, 5)), border_threshold=10)
    NeuronIds(volume(resolution=(40, 4, 5)))  # nothing to measure
    for threshold in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="at least 0 nm"):
            NeuronIds(volume(), border_threshold=threshold)
    with pytest.raises(ValueError, match="must have one shape"):
        create_border_mask(LABELS, np.zeros((2, 3, 3), np.uint64), 1, BACKGROUND)
    with pytest.raises(ValueError, match="does not fit into uint8"):
        create_border_mask(LABELS, np.zeros((2, 3, 4), np.uint8), 1, BACKGROUND)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 1)), st.floats(0, 4))
def test_the_border_is_what_it_says(labels, distance):
    pixels = np.argwhere(np.ones(labels.shape))
    border = [
        (y, x)
        for y, x in pixels
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= y + dy < 6 and 0 <= x + dx < 7 and labels[y, x] != labels[y + dy, x + dx]
    ] or [(-1, 0)]  # the phantom point of a section without a border
    near = cdist(pixels, border).min(axis=1) <= distance
    np.testing.assert_array_equal(create_border_mask_2d(labels, distance), near.reshape(6, 7))


def test_border_mask_into_signed_and_narrow_labels():
    labels = np.zeros((1, 4, 8), np.uint8)
    labels[..., 4:] = 255
    target = np.zeros(labels.shape, np.int64)
    create_border_mask(labels, target, 0, BACKGROUND)
    assert target[0, 0].tolist() == [0, 0, 0, -1, -1, 255, 255, 255]


def test_masked_neuron_ids_are_written(tmp_path):
    truth = np.ones((2, 8, 8), np.uint64)
    truth[..., 4:] = 2
    with CremiFile(tmp_path / "in.hdf", "w") as file:
        file.write_neuron_ids(Volume(truth, (40, 4, 4), (40, 0, 0), "mine"))
    with CremiFile(tmp_path / "in.hdf", "r") as source, CremiFile(tmp_path / "b.hdf", "w") as to:
        create_and_write_masked_neuron_ids(source, to, 0, BACKGROUND)
        create_and_write_masked_neuron_ids(source, to, 3, BACKGROUND)  # not without overwrite
        ids = to.read_neuron_ids()
        assert (ids.data[...] == BACKGROUND).sum() == 2 * 8 * 2
        assert list(ids.offset) == [40, 0, 0] and ids.comment.startswith("mine Border masked")
        create_and_write_masked_neuron_ids(source, to, 3, BACKGROUND, overwrite=True)
        assert (to.read_neuron_ids().data[...] == BACKGROUND).all()


def test_clefts_on_different_grids():
    with pytest.raises(ValueError, match="detected clefts has shape"):
        Clefts(volume(LABELS[:1]), volume())
    with pytest.raises(ValueError, match="resolution"):
        Clefts(volume(), volume(resolution=(40, 4, 8)))
    with pytest.raises(TypeError, match="clefts of the test must be integers"):
        Clefts(volume(LABELS.astype(float)), volume())


def test_signed_clefts_and_files(tmp_path):
    test, truth = np.full((2, 2, 8, 8), BACKGROUND, np.uint64)
    test[0, 2, 2], truth[1, 2, 4] = 1, 1
    signed = Clefts(volume(test.view(np.int64)), volume(truth.view(np.int64)))
    distance = np.hypot(40, 8)
    assert signed.acc_false_positives()["mean"] == pytest.approx(distance)
    assert signed.count_false_positives(distance - 1e-6) == 1
    assert signed.count_false_positives(distance) == 0  # farther than, not as far as
    with CremiFile(tmp_path / "a.hdf", "w") as file:
        file.write_clefts(volume(test))
        assert Clefts(file.read_clefts(), volume(truth)).acc_false_negatives()["count"] == 1


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cleft_distances_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    test, truth = rng.choice(np.array([BACKGROUND, BACKGROUND - 1, 3], np.uint64), (2, 3, 4, 5))
    invalid = truth == BACKGROUND - 1
    found = np.argwhere((test != BACKGROUND) & ~invalid) * (40, 4, 4)
    true = np.argwhere((truth != BACKGROUND) & ~invalid) * (40, 4, 4)
    clefts = Clefts(volume(test), volume(truth))
    if len(found) and len(true):
        distances = cdist(found, true)
        np.testing.assert_allclose(clefts.false_positive_distances, distances.min(axis=1))
        np.testing.assert_allclose(clefts.false_negative_distances, distances.min(axis=0))


def partners(*pairs):
    result = Annotations()
    for k, (pre, post) in enumerate(pairs):
        result.add_annotation(2 * k, "presynaptic_site", pre)
        result.add_annotation(2 * k + 1, "postsynaptic_site", post)
        result.set_pre_post_partners(2 * k, 2 * k + 1)
    return result


def test_partners_without_partners():
    some, none = partners(((0, 0, 0), (0, 4, 4))), Annotations()
    with pytest.raises(ValueError, match="neither detected nor true partners"):
        SynapticPartners().fscore(none, none, volume())
    stats = SynapticPartners().fscore(none, some, volume(), all_stats=True)
    assert (stats.fscore, stats.recall, stats.fp, stats.fn) == (0, 0, 0, 1)
    assert np.isnan(stats.precision)
    for threshold in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a positive number"):
            SynapticPartners(threshold).fscore(some, some, volume())
    outside = partners(((0, 0, 0), (0, 400, 0)))
    with pytest.raises(IndexError, match="does not lie inside"):
        SynapticPartners().fscore(outside, some, volume())


def test_partners_between_huge_neuron_ids():
    data = np.full((1, 1, 4), 2**64 - 2, np.uint64)
    data[..., 2:] = 2**64 - 3  # one and the same number as float64
    a = partners(((0, 0, 0), (0, 0, 12)))
    b = partners(((0, 0, 12), (0, 0, 0)))
    assert SynapticPartners().fscore(a, a, volume(data)) == 1
    assert SynapticPartners().fscore(a, b, volume(data)) == 0


def test_only_numpy_scipy_and_h5py_are_needed():
    script = (
        "import sys, pkgutil, importlib, cremi_eval\n"
        "for m in pkgutil.walk_packages(cremi_eval.__path__, 'cremi_eval.'):\n"
        "    importlib.import_module(m.name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(run.stdout.split())
    assert {"cremi_eval", "numpy", "scipy", "h5py"} <= loaded
    assert not loaded & {"torch", "higra", "skimage", "matplotlib", "malis", "unet", "tqdm"}
