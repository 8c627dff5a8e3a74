import numpy as np
import pytest
import torch
from brute_force import bottlenecks, list_edges, rank_edges
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malis.affinity import nearest_offsets
from malis.maximin import maximin_edges, maximin_tree, merge_order

# Three by three voxels; the edge to the left (channel 1) and up (channel 0) of each.
#
#   a -.9- b -.2- c
#   |.1    |.8    |.7
#   d -.6- e -.3- f
#   |.5    |.4    |.95
#   g -.85-h -.15-i
GRID = np.array(
    [
        [[0, 0, 0], [0.1, 0.8, 0.7], [0.5, 0.4, 0.95]],
        [[0, 0.9, 0.2], [0, 0.6, 0.3], [0, 0.85, 0.15]],
    ],
    dtype=np.float32,
)


def test_maximin_edges_by_hand():
    pairs = [
        ((0, 0), (0, 1)),  # a - b: direct, 0.9
        ((0, 0), (1, 0)),  # a - b - e - d: the weakest is d - e, 0.6; direct only 0.1
        ((0, 0), (2, 1)),  # a - b - e - d - g - h: weakest d - g, 0.5; over e - h only 0.4
        ((0, 0), (2, 2)),  # a - b - e - f - i: weakest e - f, 0.3
        ((0, 2), (2, 2)),  # c - f - i: 0.7
    ]
    edges = maximin_edges(GRID, nearest_offsets(2), np.array(pairs))
    np.testing.assert_allclose(GRID[tuple(edges.T)], [0.9, 0.6, 0.5, 0.3, 0.7])
    assert edges.tolist() == [[1, 0, 1], [1, 1, 1], [0, 2, 0], [1, 1, 2], [0, 1, 2]]


def test_the_tree_merges_from_strong_to_weak():
    tree = maximin_tree(GRID, np.array(nearest_offsets(2)))
    weights = GRID.ravel()[GRID.ravel() > 0][tree.edges]
    np.testing.assert_allclose(weights, [0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3])
    assert (tree.parents[:-1] > np.arange(16)).all()


def test_merge_order_breaks_ties_by_position():
    values = np.array([0.5, 0.0, 1.0, 0.5, 0.5, 1.0], dtype=np.float32)
    assert merge_order(values).tolist() == [2, 5, 0, 3, 4, 1]
    late = np.array([0, 0, 1, 0, 1, 0], dtype=bool)
    assert merge_order(values, late).tolist() == [5, 0, 3, 1, 2, 4]


@given(
    hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(0, 1, width=32)),
    st.randoms(use_true_random=False),
)
def test_merge_order_is_the_sorted_order(values, random):
    late = np.array([random.random() < 0.5 for _ in values], dtype=bool)
    values = values + np.float32(0)
    expected = sorted(range(len(values)), key=lambda i: (late[i], -values[i], i))
    assert merge_order(values, late).tolist() == expected


@st.composite
def graphs(draw):
    ndim = draw(st.integers(1, 3))
    limit = {1: 14, 2: 5, 3: 3}[ndim]
    shape = tuple(draw(st.integers(1, limit)) for _ in range(ndim))
    step = st.tuples(*[st.integers(-2, 2)] * ndim).filter(any)
    offsets = draw(
        st.one_of(st.just(list(nearest_offsets(ndim))), st.lists(step, min_size=1, max_size=4))
    )
    grid = st.integers(0, draw(st.sampled_from([1, 3, 1000])))
    values = draw(hnp.arrays(np.int64, (len(offsets), *shape), elements=grid))
    return (values / max(1, values.max())).astype(np.float32), np.array(offsets)


@given(graphs())
def test_maximin_edges_equal_floyd_warshall(graph):
    affinities, offsets = graph
    shape = affinities.shape[1:]
    edges = list_edges(shape, offsets)
    ranks = rank_edges([-float(affinities[(c, *voxel)]) for c, voxel, _ in edges])
    expected = bottlenecks(shape, edges, ranks)
    pairs = np.argwhere(~np.eye(len(expected), dtype=bool))
    found = maximin_edges(affinities, offsets, pairs)
    for (u, v), row in zip(pairs, found, strict=True):
        edge = expected[u, v]
        assert tuple(row) == ((edges[edge][0], *edges[edge][1]) if edge >= 0 else (-1,) * len(row))


def test_tensors_are_answered_with_tensors():
    affinities = torch.from_numpy(GRID)
    pairs = torch.tensor([[0, 8], [3, 0]])
    edges = maximin_edges(affinities, nearest_offsets(2), pairs)
    assert isinstance(edges, torch.Tensor)
    np.testing.assert_array_equal(edges, maximin_edges(GRID, nearest_offsets(2), pairs.numpy()))


def test_pieces_of_a_graph_have_no_maximin_edge():
    affinities = np.full((1, 2, 3), 0.5, dtype=np.float32)
    edges = maximin_edges(affinities, [(0, -1)], np.array([[0, 1], [0, 3]]))
    assert edges.tolist() == [[0, 0, 1], [-1, -1, -1]]


def test_no_pairs_no_edges():
    assert maximin_edges(GRID, nearest_offsets(2), np.zeros((0, 2), int)).shape == (0, 3)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([[0, 9]], ValueError, "outside the volume of 9 voxels"),
        ([[-1, 2]], ValueError, "outside the volume"),
        ([[(0, 0), (0, 3)]], ValueError, r"outside the volume of shape \(3, 3\)"),
        ([[4, 4]], ValueError, "two different voxels"),
        ([[0.0, 1.0]], TypeError, "pairs must be integers"),
        ([0, 1], ValueError, r"pairs must have shape \(P, 2\)"),
    ],
)
def test_bad_pairs_are_named(pairs, error, message):
    with pytest.raises(error, match=message):
        maximin_edges(GRID, nearest_offsets(2), np.array(pairs))
