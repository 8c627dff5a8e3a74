import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malis.affinity import nearest_offsets
from malis.segmentation import (
    Hierarchy,
    RegionGraph,
    agglomerate,
    merge_regions,
    region_graph,
)
from malis.segmentation.regions import absorb_small


def graph_of(boundaries, n_regions):
    pairs = sorted(boundaries)
    values = [np.asarray(boundaries[pair], np.float32) for pair in pairs]
    starts = np.cumsum([0, *map(len, values)])
    return RegionGraph(
        n_regions, np.array(pairs).reshape(-1, 2), np.concatenate([[], *values]), starts
    )


# Five regions in a ring of four with a tail:
#
#   0 ---- 1     0-1 .9 .5            mean .7    max .9
#   |      |     1-2 .8 .8 .2         mean .6    max .8
#   3 ---- 2     2-3 .65              mean .65   max .65
#          |     0-3 .1 .1 .1 .95     mean .3125 max .95
#          4     2-4 .3               mean .3    max .3
BY_HAND = graph_of(
    {
        (0, 1): [0.9, 0.5],
        (1, 2): [0.8, 0.8, 0.2],
        (2, 3): [0.65],
        (0, 3): [0.1, 0.1, 0.1, 0.95],
        (2, 4): [0.3],
    },
    5,
)


def as_sets(merges, n_regions):
    members = [{region} for region in range(n_regions)]
    for one, other in merges:
        members.append(members[one] | members[other])
    return members[n_regions:]


def test_mean_linkage_by_hand():
    merges, scores = merge_regions(BY_HAND, linkage="mean")
    # 01 at .7; 23 at .65; then 1-2 and 0-3 are one boundary of seven: (1.8 + 1.25) / 7 = .4357
    assert as_sets(merges, 5) == [{0, 1}, {2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]
    np.testing.assert_allclose(scores, [0.7, 0.65, 3.05 / 7, 0.3], rtol=1e-6)


def test_the_hierarchy_keeps_its_own_fragments():
    fragments = np.array([[1, 1, 2, 2]], np.int32)
    affinities = np.full((2, 1, 4), 0.5, np.float32)
    hierarchy = agglomerate(affinities, nearest_offsets(2), fragments)
    fragments[:] = 1
    assert hierarchy.leaves.tolist() == [[1, 1, 2, 2]]


def test_single_linkage_by_hand():
    merges, scores = merge_regions(BY_HAND, linkage="single")
    assert as_sets(merges, 5) == [{0, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]
    np.testing.assert_allclose(scores, [0.95, 0.9, 0.8, 0.3], rtol=1e-6)


def test_quantile_linkage_by_hand():
    # Ranks: int(.75 n) + 1, so of 1, 2, 3, 4 and 7 values the 1st, 2nd, 3rd, 4th and 6th count.
    # 0-3 first at .95 (its 4th of four); 01 at .9; then 2 touches 013 with .2 .65 .8 .8, 4th: .8.
    merges, scores = merge_regions(BY_HAND, linkage="quantile", quantile=0.75)
    assert as_sets(merges, 5) == [{0, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]
    bins = np.floor(np.array([0.95, 0.9, 0.8, 0.3]) * 256)
    np.testing.assert_array_equal(scores, ((bins + 0.5) / 256).astype(np.float32))


def test_the_median_merges_in_another_order():
    # Ranks: int(.5 n) + 1. 0-1 has .9 (2nd of two), 1-2 .8, 2-3 .65, 0-3 .1 (3rd of four).
    # 01 at .9; 012 at .8; then 3 touches it with .1 .1 .1 .65 .95: 3rd of five, .1; 4 at .3 first.
    merges, scores = merge_regions(BY_HAND, linkage="quantile", quantile=0.5)
    assert as_sets(merges, 5) == [{0, 1}, {0, 1, 2}, {0, 1, 2, 4}, {0, 1, 2, 3, 4}]
    bins = np.floor(np.array([0.9, 0.8, 0.3, 0.1]) * 256)
    np.testing.assert_array_equal(scores, ((bins + 0.5) / 256).astype(np.float32))


def test_quantiles_of_initial_maxima_by_hand():
    # Maxima: 0-1 .9, 1-2 .8 twice (equal bins both count), 2-3 .65, 0-3 .95, 2-4 .3; medians.
    # 03 at .95; 013 at .9; 2 touches it with .65 .8 .8: 2nd of three, .8.
    merges, scores = merge_regions(BY_HAND, linkage="quantile", quantile=0.5, initial_maximum=True)
    assert as_sets(merges, 5) == [{0, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]
    bins = np.floor(np.array([0.95, 0.9, 0.8, 0.3]) * 256)
    np.testing.assert_array_equal(scores, ((bins + 0.5) / 256).astype(np.float32))


def greedy(graph, score):
    """Merge the best pair by looking at all of them, every time."""
    boundaries = {
        (frozenset([int(a)]), frozenset([int(b)])): list(graph.affinities[start:stop])
        for (a, b), start, stop in zip(
            graph.edges, graph.starts[:-1], graph.starts[1:], strict=True
        )
    }
    history = []
    while boundaries:
        best = max(boundaries, key=lambda pair: score(boundaries[pair]))
        value = score(boundaries.pop(best))
        new = best[0] | best[1]
        history.append((new, value))
        moved = {}
        for (one, other), values in boundaries.items():
            pair = tuple(new if region in best else region for region in (one, other))
            pair = tuple(sorted(pair, key=sorted))
            moved.setdefault(pair, []).extend(values)
        boundaries = moved
    return history


def quantile_score(q):
    def score(values):
        levels = sorted(min(int(np.float32(v) * np.float32(256)), 255) for v in values)
        return (levels[min(int(q * len(levels)) + 1, len(levels)) - 1] + 0.5) / 256

    return score


SCORES = {
    "mean": lambda values: np.mean(values, dtype=np.float64),
    "single": max,
    "quantile": quantile_score(0.75),
}


@st.composite
def random_graphs(draw):
    n = draw(st.integers(2, 9))
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=1, unique=True))
    sizes = draw(st.lists(st.integers(1, 5), min_size=len(chosen), max_size=len(chosen)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # One value a bin, so that quantiles of different boundaries never tie.
    values = rng.permutation(np.arange(256) + rng.random(256))[: sum(sizes)] / 256
    ends = np.cumsum([0, *sizes])
    return graph_of(
        {pair: values[a:b] for pair, a, b in zip(chosen, ends[:-1], ends[1:], strict=True)}, n
    )


@pytest.mark.parametrize("linkage", ["mean", "single", "quantile"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_merges_are_those_of_an_exhaustive_search(linkage, data):
    graph = data.draw(random_graphs())
    merges, scores = merge_regions(graph, linkage=linkage)
    expected = greedy(graph, SCORES[linkage])
    assert as_sets(merges, graph.n_regions) == [set(region) for region, _ in expected]
    np.testing.assert_allclose(scores, [value for _, value in expected], rtol=1e-6)
    assert (np.diff(scores) <= 0).all()


def planar_graph(seed, ties):
    """Many regions in two parts, with one hub that touches a third of them."""
    rng = np.random.default_rng(seed)
    n = 144
    rows = np.arange(n).reshape(12, 12)
    pairs = np.concatenate([
        np.stack([rows[:, 1:], rows[:, :-1]]).reshape(2, -1).T,
        np.stack([rows[1:], rows[:-1]]).reshape(2, -1).T,
        [(0, other) for other in range(2, n // 2) if other % 3],
    ])  # fmt: skip
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    pairs = pairs[(pairs[:, 0] < n // 2) == (pairs[:, 1] < n // 2)]
    contact = rng.integers(1, 6, len(pairs))
    values = rng.random(contact.sum()).astype(np.float32)
    values = np.round(values, 1) if ties else values
    starts = np.cumsum([0, *contact])
    return RegionGraph(n, pairs, values, starts)


class TestManyRegionsByTheMean:
    @pytest.mark.parametrize("few", [0, 0.1, 2])
    @pytest.mark.parametrize("seed", range(3))
    def test_rounds_and_a_queue_give_the_merges_of_an_exhaustive_search(
        self, monkeypatch, few, seed
    ):
        monkeypatch.setattr("malis.segmentation.agglomeration.FEW", few)
        graph = planar_graph(seed, ties=False)
        merges, scores = merge_regions(graph)
        expected = greedy(graph, SCORES["mean"])
        assert len(merges) == len(expected) == 142  # two components stay
        assert as_sets(merges, 144) == [set(region) for region, _ in expected]
        np.testing.assert_allclose(scores, [value for _, value in expected], rtol=1e-6)

    @pytest.mark.parametrize("few", [0, 0.1, 2])
    def test_with_ties_every_merge_is_one_of_the_best(self, monkeypatch, few):
        monkeypatch.setattr("malis.segmentation.agglomeration.FEW", few)
        graph = planar_graph(0, ties=True)
        merges, scores = merge_regions(graph)
        assert (np.diff(scores) <= 0).all()
        table = {}
        for pair, total, contact in zip(
            graph.edges.tolist(), graph.total, graph.contact, strict=True
        ):
            table[frozenset(pair)] = np.array([total, contact])
        for made, (pair, score) in enumerate(zip(merges.tolist(), scores, strict=True), 144):
            means = {key: total / contact for key, (total, contact) in table.items()}
            assert means[frozenset(pair)] == pytest.approx(max(means.values()), abs=1e-6)
            assert score == pytest.approx(means[frozenset(pair)], abs=1e-6)
            del table[frozenset(pair)]
            for key in [key for key in table if key & set(pair)]:
                (third,) = key - set(pair)
                new = frozenset([third, made])
                table[new] = table.get(new, 0) + table.pop(key)
        assert not table


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_region_graph_lists_every_boundary_affinity(shape, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, shape) * 1000
    affinities = rng.random((3, *shape)).astype(np.float32)
    graph = region_graph(affinities, nearest_offsets(3), labels)
    ids = [int(label) for label in np.unique(labels) if label]
    expected = {}
    for voxel in np.ndindex(shape):
        for channel, offset in enumerate(nearest_offsets(3)):
            other = tuple(np.add(voxel, offset))
            if min(other) < 0:
                continue
            ends = int(labels[voxel]), int(labels[other])
            if ends[0] == ends[1] or 0 in ends:
                continue
            pair = tuple(sorted(map(ids.index, ends)))
            expected.setdefault(pair, []).append(affinities[(channel, *voxel)])
    assert graph.n_regions == len(ids)
    assert [tuple(edge) for edge in graph.edges.tolist()] == sorted(expected)
    for pair, start, stop in zip(
        sorted(expected), graph.starts[:-1], graph.starts[1:], strict=True
    ):
        assert sorted(graph.affinities[start:stop]) == sorted(expected[pair])
    np.testing.assert_allclose(graph.mean, [np.mean(expected[p]) for p in sorted(expected)], 1e-5)
    assert graph.maximum.tolist() == [max(expected[p]) for p in sorted(expected)]


def line(*affinities):
    """Regions 1, 2, ... of one voxel in a row; affinity i joins voxel i and i + 1."""
    values = np.array([[0, *affinities]], dtype=np.float32)
    return values, [(-1,)], np.arange(1, len(affinities) + 2)


@pytest.mark.parametrize("linkage", ["mean", "single"])
def test_a_cut_merges_scores_of_at_least_the_threshold(linkage):
    hierarchy = agglomerate(*line(0.9, 0.3, 0.7), linkage=linkage)
    assert hierarchy.cut(0.95).tolist() == [1, 2, 3, 4]
    assert hierarchy.cut(0.9).tolist() == [1, 1, 2, 3]
    assert hierarchy.cut(0.7).tolist() == [1, 1, 2, 2]
    assert hierarchy.cut(0.300001).tolist() == [1, 1, 2, 2]
    assert hierarchy.cut(0.3).tolist() == [1, 1, 1, 1]
    assert hierarchy.cut(0.5).dtype == np.uint64


def test_quantile_cuts_lie_in_the_middle_of_bins():
    hierarchy = agglomerate(*line(0.9, 0.3, 0.7), linkage="quantile")
    np.testing.assert_allclose(hierarchy.scores, [0.9, 0.7, 0.3], atol=1 / 512)
    assert hierarchy.cut(0.5).tolist() == [1, 1, 2, 2]


def test_fragments_that_do_not_touch_stay_apart():
    affinities, offsets, fragments = line(0.9, 1.0, 1.0, 0.8)
    fragments[2] = 0
    for linkage in ("mean", "single", "quantile"):
        hierarchy = agglomerate(affinities, offsets, fragments, linkage=linkage)
        assert hierarchy.cut(0).tolist() == [1, 1, 0, 2, 2]
        assert len(hierarchy.scores) == 2


def test_no_fragment_and_one_fragment():
    affinities = np.full((2, 3, 4), 0.5, np.float32)
    for label in (0, 7):
        hierarchy = agglomerate(affinities, nearest_offsets(2), np.full((3, 4), label))
        assert (hierarchy.cut(0.1) == (label > 0)).all()
        assert hierarchy.merges.shape == (0, 2)


@pytest.mark.parametrize("linkage", ["mean", "single", "quantile"])
def test_relabelling_and_transposing_change_nothing(linkage, make_affinities):
    rng = np.random.default_rng(3)
    fragments = rng.integers(1, 30, (6, 7, 8))
    affinities = make_affinities(rng.random((3, 6, 7, 8)) > 0.5)
    names = rng.permutation(2**62 + np.arange(31)).astype(np.uint64)
    axes = (2, 0, 1)
    for threshold in (0.45, 0.5, 0.55):
        cut = agglomerate(affinities, nearest_offsets(3), fragments, linkage=linkage).cut(threshold)
        renamed = agglomerate(affinities, nearest_offsets(3), names[fragments], linkage=linkage)
        assert same_partition(cut, renamed.cut(threshold))
        offsets = np.array(nearest_offsets(3))[:, axes]
        turned = agglomerate(
            affinities.transpose(0, *(1 + np.array(axes))),
            offsets,
            fragments.transpose(axes),
            linkage=linkage,
        )
        assert same_partition(cut.transpose(axes), turned.cut(threshold))


def same_partition(one, other):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def test_tensors_come_back_as_tensors():
    affinities, offsets, fragments = line(0.9, 0.3, 0.7)
    hierarchy = agglomerate(torch.from_numpy(affinities), offsets, torch.from_numpy(fragments))
    cut = hierarchy.cut(0.5)
    assert cut.dtype == torch.int64
    assert cut.tolist() == [1, 1, 2, 2]


def test_bad_arguments_are_named():
    affinities, offsets, fragments = line(0.9, 0.3)
    with pytest.raises(ValueError, match="linkage must be one of mean, single, quantile"):
        agglomerate(affinities, offsets, fragments, linkage="average")
    with pytest.raises(ValueError, match="quantile must lie in"):
        agglomerate(affinities, offsets, fragments, linkage="quantile", quantile=75)
    with pytest.raises(ValueError, match=r"fragments must have shape \(3,\) .* got \(2,\)"):
        agglomerate(affinities, offsets, fragments[:2])
    with pytest.raises(TypeError, match="fragments must be integers"):
        agglomerate(affinities, offsets, fragments.astype(float))
    with pytest.raises(ValueError, match="negative"):
        agglomerate(affinities, offsets, -fragments)


def test_arguments_stay_as_they_are(make_affinities):
    affinities = make_affinities(np.random.default_rng(0).random((2, 9, 9)) > 0.5)
    fragments = np.arange(81).reshape(9, 9)
    before = affinities.copy(), fragments.copy()
    for linkage in ("mean", "single", "quantile"):
        agglomerate(affinities, nearest_offsets(2), fragments, linkage=linkage).cut(0.5)
    np.testing.assert_array_equal(affinities, before[0])
    np.testing.assert_array_equal(fragments, before[1])


def test_small_regions_join_a_neighbour_by_hand():
    graph, sizes = BY_HAND.sums(), np.array([9, 2, 9, 1, 1])
    apart = np.arange(1, 6)
    # 1 joins 0 (.7, not .6), 3 and 4 join 2; 0 and 2 stay two, though 1 touches both
    assert absorb_small(graph, apart, sizes, 3).tolist() == [1, 1, 2, 2, 2]
    # only 3 and 4 are small
    assert absorb_small(graph, apart, sizes, 2).tolist() == [1, 2, 3, 3, 3]
    # 1 and 2 lie in one region: 3 touches 0 by .3125 on average, and that one by .65
    assert absorb_small(graph, np.array([1, 2, 2, 3, 4]), sizes, 2).tolist() == [1, 2, 2, 2, 2]
    assert absorb_small(graph, apart, sizes, 100).tolist() == [1] * 5  # all that touch
    assert absorb_small(graph, apart, sizes, 1).tolist() == apart.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(["mean", "single"]))
def test_no_small_region_is_left_and_no_large_ones_meet(seed, size, linkage):
    rng = np.random.default_rng(seed)
    affinities = rng.random((3, 3, 7, 8), np.float32)
    fragments = rng.integers(0, 40, (3, 7, 8))
    hierarchy = agglomerate(affinities, nearest_offsets(3), fragments, linkage=linkage)
    before, after = hierarchy.cut(0.6), hierarchy.cut(0.6, absorb=size)
    np.testing.assert_array_equal(after == 0, before == 0)
    sizes = np.bincount(before.ravel().astype(int))
    whole = np.unique(np.stack([before, after]).reshape(2, -1), axis=1).T
    assert len(whole) == len(np.unique(before))  # regions join, and are never cut
    large = [new for old, new in whole.tolist() if old and sizes[old] >= size]
    assert len(set(large)) == len(large)
    touching = region_graph(affinities, nearest_offsets(3), after).edges
    ids = np.unique(after[after > 0])
    small = np.bincount(after.ravel().astype(int))[ids] < size
    assert not small[touching].any()


def test_a_hierarchy_without_its_graph_absorbs_nothing():
    hierarchy = Hierarchy(np.ones((2, 2), np.int32), 1, np.zeros((0, 2), int), np.zeros(0))
    with pytest.raises(ValueError, match="without its graph"):
        hierarchy.cut(0.5, absorb=3)
