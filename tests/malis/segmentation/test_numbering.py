import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malis.segmentation import remove_small
from malis.segmentation.numbering import compact, in_kind

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
FEW = st.sampled_from([0, 1, 2, 3, 7])
HUGE = st.sampled_from([0, 1, 5, 2**40, 2**64 - 1])


@given(hnp.arrays(np.uint64, SHAPES, elements=st.one_of(FEW, HUGE)))
def test_numbers_are_ranks(labels):
    before = labels.copy()
    numbers, ids = compact(labels)
    assert numbers.dtype == np.int32
    assert ids.tolist() == sorted({int(label) for label in labels.ravel()} - {0})
    expected = [0 if label == 0 else ids.tolist().index(label) + 1 for label in labels.ravel()]
    assert numbers.shape == labels.shape
    assert numbers.ravel().tolist() == expected
    np.testing.assert_array_equal(labels, before)


@given(hnp.arrays(np.int16, SHAPES, elements=FEW), st.integers(0, 4))
def test_small_objects_are_removed(labels, min_size):
    sizes = {int(i): int((labels == i).sum()) for i in np.unique(labels)}
    expected = [x if sizes[x] >= min_size else 0 for x in labels.ravel().tolist()]
    assert remove_small(labels, min_size).ravel().tolist() == expected


def test_large_ids_are_kept_to_the_last_bit():
    labels = np.array([2**60 + 1, 2**60 + 1, 2**53 + 1, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(remove_small(labels, 1), labels)


def test_what_is_no_label_is_named():
    with pytest.raises(TypeError, match="labels must be integers, got float"):
        compact(np.ones(3))
    with pytest.raises(ValueError, match="labels must not be negative, got -2"):
        compact(np.array([3, -2]))


def test_labels_come_back_in_kind():
    labels = np.array([3, 0], np.int32)
    assert in_kind(labels, None).dtype == np.uint64
    assert in_kind(labels, labels).dtype == np.uint64
    assert in_kind(labels, torch.zeros(1)).dtype == torch.int64
    assert in_kind(labels, torch.device("cpu")).tolist() == [3, 0]
