import higra as hg
import numpy as np
import pytest
import torch
from brute_force import bottlenecks, list_edges, rank_edges
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malis.affinity import nearest_offsets
from malis.maximin import (
    leaf_line,
    maximin_edges,
    maximin_tree,
    merge_order,
    node_sums,
    range_maxima,
    sibling_products,
)

pytestmark = pytest.mark.usefixtures("each_host_backend")

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


@settings(deadline=None)  # the first call compiles
@given(
    hnp.arrays(
        np.float32,
        st.integers(0, 50),
        elements=st.one_of(
            st.floats(0, 1, width=32),
            st.floats(allow_nan=False, width=32),
            st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-149), 17.0, -17.0]),
        ),
    ),
    st.randoms(use_true_random=False),
)
def test_merge_order_is_the_sorted_order(values, random):
    late = np.array([random.random() < 0.5 for _ in values], dtype=bool)
    before = values.copy()
    expected = sorted(range(len(values)), key=lambda i: (late[i], -values[i], i))
    assert merge_order(values, late).tolist() == expected
    assert values.tobytes() == before.tobytes()


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


@settings(deadline=None)  # the first call compiles
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


#       8
#      / \
#     7   \        leaves 0 ... 4
#    / \   \
#   5   \   6
#  / \   \ / \
# 0   3  1 2  4
PARENTS = np.array([5, 7, 6, 5, 6, 7, 8, 8, 8])


def random_parents(n_leaves, rng):
    parents = np.empty(2 * n_leaves - 1, dtype=np.int64)
    roots = list(range(n_leaves))
    for node in range(n_leaves, 2 * n_leaves - 1):
        for _ in range(2):
            parents[roots.pop(rng.integers(len(roots)))] = node
        roots.append(node)
    parents[-1] = 2 * n_leaves - 2
    return parents


def test_sums_and_products_by_hand():
    sums = node_sums(hg.Tree(PARENTS), np.array([1, 2, 3, 4, 5]))
    assert sums.tolist() == [1, 2, 3, 4, 5, 5, 8, 7, 15]
    assert sibling_products(PARENTS, sums).tolist() == [1 * 4, 3 * 5, 5 * 2, 7 * 8]


@pytest.mark.parametrize("seed", range(5))
def test_two_leaves_meet_at_the_largest_number_between_them(seed):
    rng = np.random.default_rng(seed)
    parents = PARENTS if seed == 0 else random_parents(int(rng.integers(2, 40)), rng)
    tree = hg.Tree(parents)
    position, meets = leaf_line(tree, parents)
    n = len(position)
    assert sorted(position) == list(range(n))
    u, v = (ends.ravel() for ends in np.meshgrid(np.arange(n), np.arange(n)))
    u, v = u[u != v], v[u != v]
    places = np.sort([position[u], position[v]], axis=0)
    expected = tree.lowest_common_ancestor(u, v)
    np.testing.assert_array_equal(range_maxima(meets, *places), expected)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=70), st.data())
def test_range_maxima_are_the_maxima_of_the_slices(values, data):
    values = np.array(values)
    starts = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), max_size=9)), dtype=int)
    stops = np.array([data.draw(st.integers(s + 1, len(values))) for s in starts], dtype=int)
    expected = [values[a:b].max() for a, b in zip(starts, stops, strict=True)]
    assert range_maxima(values, starts, stops).tolist() == expected
