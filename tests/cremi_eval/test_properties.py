"""What holds for every segmentation, and where scikit-image agrees."""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error, variation_of_information

from cremi_eval import Volume
from cremi_eval._slabs import slabs
from cremi_eval.evaluation import (
    NeuronIds,
    adapted_rand,
    adapted_rand_of_table,
    contingency,
    contingency_table,
    voi,
    voi_by_object,
    voi_of_table,
)

HUGE = 2**64 - 1
SMALL_IDS = st.integers(0, 5)
ANY_IDS = st.sampled_from([0, 1, 2, 7, 2**31, 2**32 + 1, 2**53 + 1, 2**63, HUGE - 1, HUGE])


@st.composite
def label_pairs(draw, ids=SMALL_IDS, dtype=np.uint64):
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    arrays = hnp.arrays(dtype, shape, elements=ids)
    return draw(arrays), draw(arrays)


def table_as_counter(table):
    pairs = table.counts.tocoo()
    rows, columns = table.truth_ids[pairs.row].tolist(), table.seg_ids[pairs.col].tolist()
    assert len(set(zip(rows, columns, strict=True))) == len(rows)
    return dict(zip(zip(rows, columns, strict=True), pairs.data.tolist(), strict=True))


@settings(deadline=None)
@given(st.one_of(label_pairs(ANY_IDS), label_pairs()), st.data())
def test_the_table_counts_every_pair_exactly(pair, data):
    truth, seg = pair
    ignored = data.draw(hnp.arrays(bool, truth.shape))
    before = truth.copy(), seg.copy(), ignored.copy()
    table = contingency_table(seg, truth, ignored=ignored)
    counted = zip(truth[~ignored].tolist(), seg[~ignored].tolist(), strict=True)
    assert table_as_counter(table) == Counter(counted)
    assert table.n_voxels == truth.size and table.n_counted == (~ignored).sum()
    assert list(table.truth_ids) == sorted(table.truth_ids)
    for array, old in zip((truth, seg, ignored), before, strict=True):
        np.testing.assert_array_equal(array, old)

    some = data.draw(st.sets(ANY_IDS))
    left = table.without(truth=some, seg=some)
    kept = {k: v for k, v in Counter(table_as_counter(table)).items() if not some & set(k)}
    assert table_as_counter(left) == kept
    assert left.truth_sizes.all() and left.seg_sizes.all()  # no empty rows and columns


@settings(deadline=None)
@given(st.one_of(label_pairs(ANY_IDS), label_pairs()), st.integers(1, 400))
def test_the_table_does_not_depend_on_the_slabs(pair, max_bytes):
    truth, seg = pair
    whole = table_as_counter(contingency_table(seg, truth))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contingency, "slabs", lambda *v: slabs(*v, max_bytes=max_bytes))
        assert table_as_counter(contingency_table(seg, truth)) == whole


@settings(deadline=None)
@given(label_pairs(), st.permutations(range(1, 6)), st.permutations(range(6)))
def test_scores_do_not_depend_on_the_labels(pair, seg_names, truth_names):
    truth, seg = pair
    other_truth = np.array(truth_names, np.uint64)[truth] * np.uint64(HUGE // 7)
    other_seg = np.array([0, *seg_names], np.uint64)[seg] * np.uint64(HUGE // 7)  # 0 stays 0
    scores = NeuronIds(Volume(truth)).whole_volume_scores(seg).as_dict()
    renamed = NeuronIds(Volume(other_truth)).whole_volume_scores(other_seg).as_dict()
    assert renamed == pytest.approx(scores, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(label_pairs(ANY_IDS))
def test_split_and_merge_change_places_with_the_volumes(pair):
    a, b = pair
    split, merge = voi_of_table(contingency_table(a, b))
    assert voi_of_table(contingency_table(b, a)) == pytest.approx((merge, split), abs=1e-12)


@settings(deadline=None)
@given(label_pairs(st.integers(1, 5)))
def test_precision_and_recall_change_places_with_the_volumes(pair):
    a, b = pair
    error, precision, recall = adapted_rand(a, b, True)
    assert adapted_rand(b, a, True) == pytest.approx((error, recall, precision))


@settings(deadline=None)
@given(label_pairs())
def test_bounds(pair):
    truth, seg = pair
    table = contingency_table(seg, truth)
    split, merge = voi_of_table(table)
    n, objects, segments = truth.size, len(table.truth_ids), len(table.seg_ids)
    slack = 1e-9
    assert 0 <= split <= np.log2(segments) + slack
    assert 0 <= merge <= np.log2(objects) + slack
    assert split + merge <= np.log2(n) + slack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("cremi_eval.evaluation.voi"), "BLOCK", 3)
        by_object, by_segment = voi_by_object(table)
    assert by_object.min() >= 0 and by_object.sum() == pytest.approx(split)
    assert by_segment.min() >= 0 and by_segment.sum() == pytest.approx(merge)
    error, precision, recall = adapted_rand_of_table(table)
    assert -slack <= error <= 1 and 0 < precision <= 1 + slack and 0 < recall <= 1 + slack


@settings(deadline=None)
@given(label_pairs(st.integers(1, 5)))
def test_perfect_is_zero(pair):
    truth, _ = pair
    assert voi(truth, truth) == (0, 0)
    assert adapted_rand(truth, truth, True) == (0, 1, 1)


@settings(deadline=None)
@given(label_pairs(dtype=np.int64))
def test_voi_agrees_with_skimage(pair):
    truth, seg = pair
    # skimage names the truth first, and ignores nothing unless told to
    ours = voi(seg, truth, ignore_groundtruth=())
    np.testing.assert_allclose(ours, variation_of_information(truth, seg), atol=1e-12)
    if truth.any():
        skimage = variation_of_information(truth, seg, ignore_labels=[0])
        np.testing.assert_allclose(voi(seg, truth), skimage, atol=1e-12)


@settings(deadline=None)
@given(label_pairs(st.integers(1, 5), dtype=np.int64))
def test_rand_agrees_with_skimage_but_for_pairs_of_a_voxel_with_itself(pair):
    truth, seg = pair
    table = contingency_table(seg, truth)
    both, objects, segments = (
        (sizes**2).sum() for sizes in (table.counts.data, table.truth_sizes, table.seg_sizes)
    )
    ours = adapted_rand(seg, truth, True)
    f = 2 * both / (objects + segments)
    assert ours == pytest.approx((1 - f, both / segments, both / objects))

    n = truth.size
    if objects > n and segments > n:  # else skimage divides by zero
        # skimage takes n_ij^2 - n_ij, and calls precision what CREMI calls recall
        f = 2 * (both - n) / (objects + segments - 2 * n)
        skimage = adapted_rand_error(truth, seg)
        assert skimage == pytest.approx(
            (1 - f, (both - n) / (objects - n), (both - n) / (segments - n))
        )


def test_where_skimage_differs():
    truth = np.array([[[0, 0, 1, 1]]])
    seg = np.array([[[1, 2, 3, 3]]])
    # VOI: CREMI's bare function ignores true label 0, skimage counts it, NeuronIds counts it
    assert voi(seg, truth) == (0, 0)
    assert tuple(variation_of_information(truth, seg)) == (0.5, 0)
    assert NeuronIds(Volume(truth)).voi(seg) == (0.5, 0)
    # Rand: skimage ignores true label 0, NeuronIds counts it
    assert adapted_rand_error(truth, seg)[0] == 0
    assert adapted_rand(seg, truth) == 0
    assert NeuronIds(Volume(truth)).adapted_rand(seg) == pytest.approx(1 - 2 * 6 / (8 + 6))
    # Rand: segment 0 is a segment for skimage, and almost nothing for CREMI
    truth, seg = np.array([[[1, 1, 2, 2]]]), np.array([[[0, 0, 3, 3]]])
    assert adapted_rand_error(truth, seg)[0] == 0
    assert adapted_rand(seg, truth, True) == pytest.approx((1 - 2 * 4.5 / (4.5 + 8), 1, 4.5 / 8))
    # Rand: all voxels alone is NaN for skimage, and a value for CREMI
    alone = np.array([[[1, 2, 3, 4]]])
    with np.errstate(invalid="ignore"):
        assert np.isnan(adapted_rand_error(alone, alone)[0])
    assert adapted_rand(alone, alone) == 0
