import numpy as np
import pytest
import torch
from brute_force import list_edges

from malis.affinity import (
    affinities_from_labels,
    edge_slices,
    existing_edges,
    gather_edges,
    grid_edges,
    locate_edges,
    nearest_offsets,
    scatter_edges,
)

NEIGHBOURHOODS = [
    ((5,), [(-1,), (2,), (-7,)]),
    ((3, 4), nearest_offsets(2)),
    ((4, 3), [(0, 1), (-1, 0), (2, -1), (-2, -2), (9, 0)]),
    ((2, 3, 4), [(-1, 0, 0), (0, 1, 0), (1, -2, 3)]),
]


def test_nearest_offsets_are_negative_unit_steps():
    assert nearest_offsets(1) == ((-1,),)
    assert nearest_offsets(2) == ((-1, 0), (0, -1))
    assert nearest_offsets(3) == ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        nearest_offsets(0)


def test_a_small_section_by_hand():
    labels = np.array([[1, 1, 2], [1, 0, 2], [0, 0, 3]])
    up, left = affinities_from_labels(labels, nearest_offsets(2))
    np.testing.assert_array_equal(up, [[0, 0, 0], [1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(left, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(("shape", "offsets"), NEIGHBOURHOODS)
def test_every_edge_is_listed_once_and_in_order(shape, offsets):
    offsets = np.array(offsets)
    expected = list_edges(shape, offsets)
    sources, targets = grid_edges(shape, offsets)
    assert [tuple(np.unravel_index(s, shape)) for s in sources] == [e[1] for e in expected]
    assert [tuple(np.unravel_index(t, shape)) for t in targets] == [e[2] for e in expected]
    located = locate_edges(np.arange(len(sources)), shape, offsets)
    assert [tuple(row) for row in located] == [(e[0], *e[1]) for e in expected]


@pytest.mark.parametrize(("shape", "offsets"), NEIGHBOURHOODS)
def test_edge_vector_and_volume_are_two_forms_of_one_thing(shape, offsets):
    offsets = np.array(offsets)
    exists = existing_edges(shape, offsets)
    volume = np.where(exists, np.random.default_rng(0).random(exists.shape), 0)
    vector = gather_edges(volume, offsets)
    assert len(vector) == exists.sum()
    np.testing.assert_array_equal(scatter_edges(vector, shape, offsets), volume)


def test_existing_edges_are_of_one_volume():
    with pytest.raises(ValueError, match=r"shape must have 2 spatial axes .* got \(3, 4, 5\)"):
        existing_edges((3, 4, 5), nearest_offsets(2))


def test_an_offset_longer_than_the_volume_has_no_edges():
    source, target = edge_slices((4, 5), (0, -6))
    assert np.zeros((4, 5))[source].size == np.zeros((4, 5))[target].size == 0


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_any_integer_type_gives_the_same_affinities(dtype):
    labels = np.random.default_rng(0).integers(0, 4, (3, 6, 5))
    expected = affinities_from_labels(labels, nearest_offsets(3))
    offsets = nearest_offsets(3)
    np.testing.assert_array_equal(affinities_from_labels(labels.astype(dtype), offsets), expected)
    tensor = affinities_from_labels(torch.from_numpy(labels.astype(dtype)), offsets)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_ids_that_no_float_tells_apart_are_different_objects():
    labels = np.array([2**64 - 1, 2**64 - 2, 2**64 - 2], dtype=np.uint64)
    assert affinities_from_labels(labels, [(-1,)]).tolist() == [[0, 0, 1]]
    assert affinities_from_labels(torch.from_numpy(labels), [(-1,)]).tolist() == [[0, 0, 1]]


def test_a_batch_is_its_samples():
    labels = torch.randint(0, 4, (3, 7, 6), generator=torch.Generator().manual_seed(0))
    batch = affinities_from_labels(labels, nearest_offsets(2))
    assert batch.shape == (3, 2, 7, 6)
    for sample, ids in zip(batch, labels, strict=True):
        assert torch.equal(sample, affinities_from_labels(ids, nearest_offsets(2)))


def test_labels_are_left_alone():
    labels = np.random.default_rng(0).integers(0, 4, (6, 5))
    before = labels.copy()
    affinities_from_labels(labels, nearest_offsets(2))
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize(
    ("labels", "offsets", "error", "message"),
    [
        (np.ones((3, 3)), nearest_offsets(2), TypeError, "labels must be integers, got float64"),
        (torch.ones(3, 3), nearest_offsets(2), TypeError, "labels must be integers"),
        (np.full((3, 3), -1), nearest_offsets(2), ValueError, "labels must not be negative"),
        (np.ones(3, int), nearest_offsets(2), ValueError, "2 spatial axes"),
        (np.ones((3, 3), int), [(0, 0), (0, -1)], ValueError, "offset 0 is zero"),
        (np.ones((3, 3), int), [(0.5, 1)], TypeError, "offsets must be integers"),
        (np.ones((3, 3), int), [], ValueError, "offsets must have shape"),
    ],
)
def test_bad_input_is_named(labels, offsets, error, message):
    with pytest.raises(error, match=message):
        affinities_from_labels(labels, offsets)
