from collections import Counter

import numpy as np
import pytest

from malis.sampling import sample_pairs

LABELS = np.array([[3, 3, 0, 7], [3, 9, 0, 7]])  # 3: three voxels, 7: two, 9: one


def frequencies(pairs):
    """How often each unordered pair was drawn."""
    return Counter(tuple(sorted(map(int, pair))) for pair in pairs)


def test_half_of_the_pairs_lie_within_objects():
    pairs, same = sample_pairs(LABELS, 1001, np.random.default_rng(0))
    flat = LABELS.ravel()
    assert same.sum() == 500
    np.testing.assert_array_equal(flat[pairs[:, 0]] == flat[pairs[:, 1]], same)
    assert (flat[pairs] > 0).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()


@pytest.mark.parametrize("kind", [True, False])
def test_all_pairs_of_a_kind_are_equally_likely(kind):
    pairs, same = sample_pairs(LABELS, 60_000, np.random.default_rng(0))
    counts = frequencies(pairs[same == kind])
    assert len(counts) == (3 + 1 if kind else 3 * 2 + 3 * 1 + 2 * 1)
    expected = 30_000 / len(counts)
    # 5 standard deviations of a binomial count
    assert max(abs(count - expected) for count in counts.values()) < 5 * np.sqrt(expected)


def test_unbalanced_pairs_are_uniform_over_all_pairs():
    pairs, same = sample_pairs(LABELS, 60_000, np.random.default_rng(0), balanced=False)
    counts = frequencies(pairs)
    assert len(counts) == 15
    assert max(abs(count - 4000) for count in counts.values()) < 5 * np.sqrt(4000)
    assert same.mean() == pytest.approx(4 / 15, abs=0.01)


@pytest.mark.parametrize(
    ("labels", "n_same"), [([5, 5, 5, 0], 10), ([1, 2, 3, 4], 0), ([1, 1, 2, 0], 5)]
)
def test_where_one_kind_is_missing_all_are_of_the_other(labels, n_same):
    pairs, same = sample_pairs(np.array(labels), 10, np.random.default_rng(0))
    assert len(pairs) == 10
    assert same.sum() == n_same


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 4, 0]])
@pytest.mark.parametrize("balanced", [True, False])
def test_without_a_pair_there_is_none(labels, balanced):
    pairs, same = sample_pairs(np.array(labels), 10, np.random.default_rng(0), balanced=balanced)
    assert pairs.shape == (0, 2)
    assert same.shape == (0,)


def test_the_same_seed_draws_the_same_pairs():
    first, second = (sample_pairs(LABELS, 50, np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
