import higra as hg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malis.maximin import leaf_line, node_sums, range_maxima, sibling_products

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
