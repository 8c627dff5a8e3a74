import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import grey_dilation, grey_erosion

import malis
from malis.labels import grow_boundary, number_labels, relabel_batch, relabel_components

HIGHEST = (9, 2), (5, 3), (4, 4)  # of the sizes of a batch, and its number of axes


def test_parts_of_objects_by_hand():
    assert relabel_components(np.array([[7, 0, 7], [7, 3, 3]])).tolist() == [[1, 0, 2], [1, 3, 3]]


def test_components_are_numbered_in_the_order_of_their_first_voxel():
    labels = np.array([[0, 5, 5], [7, 0, 5]])
    for axis in range(3):
        found = relabel_components(np.expand_dims(labels, axis))
        assert found.squeeze(axis).tolist() == [[0, 1, 1], [2, 0, 1]]
    assert relabel_components(np.full((1, 1), 9)).tolist() == [[1]]


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([(7, 9), (4, 5, 6)]))
def test_components_are_those_of_a_flood_fill(seed, shape):
    labels = np.random.default_rng(seed).integers(0, 3, shape)
    before, expected, count = labels.copy(), np.zeros(shape, int), 0
    for start in np.ndindex(shape):
        if labels[start] == 0 or expected[start]:
            continue
        count += 1
        todo = [start]
        while todo:
            place = todo.pop()
            inside = all(0 <= p < n for p, n in zip(place, shape, strict=True))
            if not inside or expected[place] or labels[place] != labels[start]:
                continue
            expected[place] = count
            for axis in range(len(shape)):
                for step in (-1, 1):
                    todo.append((*place[:axis], place[axis] + step, *place[axis + 1 :]))
    np.testing.assert_array_equal(relabel_components(labels), expected)
    np.testing.assert_array_equal(labels, before)


def test_ids_above_two_to_the_63_are_exact():
    ids = [2**64 - 1, 2**64 - 2, 2**63, 2**63 - 1, 0, 1]
    labels = np.array([ids], dtype=np.uint64)
    np.testing.assert_array_equal(relabel_components(labels), [[1, 2, 3, 4, 0, 5]])
    np.testing.assert_array_equal(number_labels(labels)[0], [[5, 4, 3, 2, 0, 1]])


@pytest.mark.parametrize("backend", ["auto", "parallel"])
def test_samples_of_a_batch_are_not_joined(backend):
    batch = torch.tensor([[[1, 0, 1]], [[1, 1, 1]]])
    assert relabel_batch(batch, backend).tolist() == [[[1, 0, 2]], [[3, 3, 3]]]


def test_tensors_and_floats_are_refused_where_one_volume_is_relabelled():
    with pytest.raises(TypeError, match="float64"):
        relabel_components(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="labels must be a NumPy array, got Tensor"):
        relabel_components(torch.ones(1, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16", "uint64", "int64"])
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_tensors_are_treated_as_arrays_are(dtype, data):
    """Components as tensor operations, and margins of tensors, on small batches of all shapes."""
    shape = data.draw(st.one_of(*(st.tuples(*[st.integers(1, n)] * k) for n, k in HIGHEST)))
    ids = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 3)))
    labels = np.where(ids == 0, 0, np.iinfo(dtype).max - ids.astype(object)).astype(dtype)
    given = torch.from_numpy(labels)
    grown = grow_boundary(given, (0, *[1] * (labels.ndim - 1)))
    expected = np.stack([grow_boundary(volume) for volume in labels])
    assert grown.dtype == given.dtype
    np.testing.assert_array_equal(grown.numpy(), expected)
    assert torch.equal(relabel_batch(grown, "parallel"), relabel_batch(grown))
    np.testing.assert_array_equal(given.numpy(), labels)


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
        (torch.zeros(3, 3), 1, TypeError, "labels must be integers, got torch.float32"),
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
