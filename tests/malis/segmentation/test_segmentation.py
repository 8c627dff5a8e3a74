import os
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage

from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds, adapted_rand
from malis.affinity import affinities_from_labels, nearest_offsets
from malis.maximin import maximin_edges
from malis.segmentation import (
    agglomerate,
    average_affinities,
    best_threshold,
    choose_cut,
    connected_components,
    fragment_steps,
    fragments,
    hierarchy_of,
    inside_candidates,
    inside_threshold,
    link_sections,
    same_tree_different_channels,
    seeded_watershed,
    segment,
    threshold_watershed,
    weak_pixel_leak,
)
from malis.segmentation.grid import direct_edges
from malis.segmentation.oversegmentation import inside_of

OFFSETS = {2: nearest_offsets(2), 3: nearest_offsets(3)}
METHODS = ("agglomerate", "threshold_watershed", "connected_components")


def same_partition(one, other):
    pairs = np.unique(np.stack([np.ravel(one), np.ravel(other)]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def cells(shape, n, seed=0):
    """Voronoi cells, and affinities with a soft membrane and noise."""
    rng = np.random.default_rng(seed)
    centres = rng.random((n, len(shape))) * shape
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    nearest = ((voxels[..., None, :] - centres) ** 2).sum(axis=-1).argmin(axis=-1) + 1
    connected = np.zeros(shape, np.int64)  # a cell in two pieces becomes two, if not of one voxel
    for cell in range(1, n + 1):
        pieces, _ = ndimage.label(nearest == cell)
        connected[pieces > 0] = pieces[pieces > 0] + connected.max()
    single = (np.bincount(connected.ravel()) == 1)[connected]
    labels = np.where(single, np.roll(connected, 1, axis=-1), connected)
    perfect = affinities_from_labels(labels, OFFSETS[len(shape)]).astype(np.float32)
    soft = np.empty_like(perfect)
    for axis, channel in enumerate(perfect):
        first = (slice(None),) * axis + (0,)
        membrane = 1 - channel
        membrane[first] = 0  # these edges leave the volume
        soft[axis] = 1 - np.minimum(2 * ndimage.gaussian_filter(membrane, 1), 1)
    noise = ndimage.gaussian_filter(rng.normal(size=perfect.shape), (0, *[1] * len(shape)))
    return labels, perfect, np.clip(soft + 0.5 * noise, 0.002, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(60, 70), (14, 24, 26)])
def test_perfect_affinities_give_the_perfect_segmentation(shape):
    labels, perfect, _ = cells(shape, 25)
    pieces = connected_components(perfect, OFFSETS[len(shape)], 0.5)
    assert same_partition(pieces, labels)
    for linkage in ("mean", "single", "quantile"):
        hierarchy = agglomerate(
            perfect, OFFSETS[len(shape)], fragments(perfect, OFFSETS[len(shape)]), linkage=linkage
        )
        for threshold in (0.01, 0.5, 0.99):
            assert same_partition(hierarchy.cut(threshold), labels)


@pytest.mark.parametrize(
    ("name", "sections", "ignored"),
    [
        ("isbi2012_train.hdf", slice(16, 18), 0),
        ("cremi_sample_B_crop.hdf", slice(2, 4), None),
        ("fib25_train.hdf", slice(140, 152), None),
    ],
)
def test_perfect_affinities_of_real_labels(name, sections, ignored):
    folder = os.environ.get("MALIS_DATA_DIR", Path(__file__).parents[3] / "../shared/data")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"needs {name}, which is not part of the repository")
    with h5py.File(path) as file:
        labels = file["volumes/labels/neuron_ids"][sections].astype(np.int64)
    perfect = affinities_from_labels(labels + (ignored is None), OFFSETS[3]).astype(np.float32)
    truth = connected_components(perfect, OFFSETS[3], 0.5).astype(np.int64)
    # Objects of one voxel touch nothing, like membranes (label 0), which consist of such voxels.
    truth[(np.bincount(truth.ravel()) == 1)[truth]] = 0
    hierarchy = agglomerate(perfect, OFFSETS[3], fragments(perfect, OFFSETS[3]))
    threshold, curve = best_threshold(hierarchy, truth, ignore_groundtruth=[0])
    assert curve.cremi.min() == 0
    assert same_partition(hierarchy.cut(threshold)[truth > 0], truth[truth > 0])


def test_noisy_cells_are_found_and_the_baselines_are_worse():
    labels, _, noisy = cells((160, 160), 40, seed=1)
    error = {
        method: min(
            pair_error(segment(noisy, OFFSETS[2], method=method, threshold=threshold), labels)
            for threshold in np.arange(0.3, 0.96, 0.05)
        )
        for method in METHODS
    }
    assert error["agglomerate"] < 0.02
    assert error["agglomerate"] < 0.2 * error["threshold_watershed"]
    assert error["agglomerate"] < 0.2 * error["connected_components"]


def pair_error(segments, labels):
    """1 - F score of the voxel pairs in one segment."""
    table = np.zeros((int(labels.max()) + 1, int(segments.max()) + 1))
    np.add.at(table, (labels.ravel(), segments.ravel().astype(np.int64)), 1)
    both, truth, found = (np.sum(x**2) for x in (table, table.sum(axis=1), table.sum(axis=0)))
    return 1 - 2 * both / (truth + found)


def test_components_are_joined_by_maximin_affinities(make_affinities):
    affinities = make_affinities(np.random.default_rng(0).random((2, 5, 6)) > 0.4)
    pairs = np.array([(a, b) for a in range(30) for b in range(a)])
    maximin = affinities[tuple(maximin_edges(affinities, OFFSETS[2], pairs).T)]
    for threshold in np.quantile(affinities, [0.2, 0.5, 0.7, 0.9]):
        labels = connected_components(affinities, OFFSETS[2], threshold).ravel()
        together = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        assert (together == (maximin >= np.float32(threshold))).all()
        voxels = np.arange(1, 31).reshape(5, 6)
        cut = agglomerate(affinities, OFFSETS[2], voxels, linkage="single").cut(threshold)
        assert same_partition(labels, cut)


@pytest.mark.parametrize(
    "offsets", [[(0, 1), (-1, 0)], [(-1, 0), (0, -3)], [(1, -1), (0, 2)], [(0, -9), (-1, 0)]]
)
def test_components_along_any_offset(offsets):
    rng = np.random.default_rng(5)
    affinities = rng.random((2, 6, 7)).astype(np.float32)
    labels = connected_components(affinities, offsets, 0.5)
    voxels = np.arange(42).reshape(6, 7)
    groups = list(range(42))
    for channel, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(6, 7):
            inside = 0 <= y + dy < 6 and 0 <= x + dx < 7
            if inside and affinities[channel, y, x] >= 0.5:
                one, other = groups[voxels[y, x]], groups[voxels[y + dy, x + dx]]
                groups = [one if group == other else group for group in groups]
    assert same_partition(labels, groups)
    assert sorted(np.unique(labels)) == list(range(1, len(set(groups)) + 1))


def test_average_affinity_by_hand():
    affinities = np.array(
        [[[9, 9, 9], [0.2, 0.4, 0.6]], [[9, 0.8, 1.0], [9, 0.0, 0.5]]], dtype=np.float32
    )
    expected = [[0.5, 2.2 / 3, 0.8], [0.1, 0.9 / 3, 0.55]]
    np.testing.assert_allclose(average_affinities(affinities, OFFSETS[2]), expected, rtol=1e-6)


def test_watershed_by_hand():
    # Heights along a line; seeds at both ends; the lowest pass is between 3 and 2.
    heights = np.array([5, 4, 3, 2, 4, 6], dtype=np.float32)
    seeds = np.array([1, 0, 0, 0, 0, 2], dtype=np.int32)
    edges = direct_edges((6,), np.array([[-1]]))
    is_open = [np.ones(5, bool)]
    assert seeded_watershed(heights, seeds, edges, is_open)[[0, 1, 2, 4, 5]].tolist() == [
        1, 1, 1, 2, 2,
    ]  # fmt: skip
    is_open[0][1] = False  # between voxels 1 and 2: now the second seed reaches further
    assert seeded_watershed(heights, seeds, edges, is_open).tolist() == [1, 1, 2, 2, 2, 2]
    is_open[0][3] = False  # and between 3 and 4: a part that no seed reaches
    assert seeded_watershed(heights, seeds, edges, is_open).tolist() == [1, 1, 3, 3, 2, 2]
    is_open[0][2] = False  # voxels 2 and 3 alone: flooded over closed edges, the highest first
    assert seeded_watershed(heights, seeds, edges, is_open)[[0, 1, 2, 4, 5]].tolist() == [
        1, 1, 1, 2, 2,
    ]  # fmt: skip


def test_every_voxel_goes_to_the_seed_with_the_highest_pass():
    rng = np.random.default_rng(8)
    for _ in range(20):
        heights = rng.permutation(np.arange(1, 43)).reshape(6, 7).astype(np.float32)
        seeds = np.zeros((6, 7), np.int32)
        seeds.ravel()[rng.choice(42, 4, replace=False)] = [1, 2, 3, 4]
        edges = direct_edges((6, 7), np.array(OFFSETS[2]))
        found = seeded_watershed(
            heights, seeds, edges, [np.ones(heights[n].shape, bool) for _, n, _ in edges]
        )
        weights = np.zeros((2, 6, 7), np.float32)
        for channel, near, far in edges:
            weights[channel][near] = np.minimum(heights[near], heights[far]) / 50
        for voxel in np.flatnonzero(seeds.ravel() == 0):
            pairs = np.array([(voxel, seed) for seed in np.flatnonzero(seeds)])
            passes = weights[tuple(maximin_edges(weights, OFFSETS[2], pairs).T)]
            best = seeds.ravel()[np.flatnonzero(seeds)][passes == passes.max()]
            assert found.ravel()[voxel] in best


def test_transposed_affinities_give_transposed_fragments_and_segments():
    _, _, noisy = cells((24, 30, 36), 60, seed=2)
    axes = (2, 0, 1)
    turned = np.ascontiguousarray(noisy.transpose(0, *(1 + np.array(axes))))
    offsets = np.array(OFFSETS[3])[:, axes]
    pieces = fragments(noisy, OFFSETS[3])
    assert pieces.max() > 40
    assert same_partition(pieces.transpose(axes), fragments(turned, offsets))
    assert same_partition(segment(noisy, OFFSETS[3]).transpose(axes), segment(turned, offsets))


def test_the_direction_of_offsets_does_not_matter():
    _, _, noisy = cells((40, 50), 20, seed=3)
    forward = np.ones_like(noisy)
    forward[0, :-1], forward[1, :, :-1] = noisy[0, 1:], noisy[1, :, 1:]
    swapped = forward[::-1]
    for method in METHODS:
        one = segment(noisy, OFFSETS[2], method=method)
        assert same_partition(one, segment(swapped, [(0, 1), (1, 0)], method=method))


def test_fragments_in_steps():
    _, _, noisy = cells((60, 60), 12, seed=4)
    steps = fragment_steps(noisy, OFFSETS[2], threshold=0.6, min_seed_distance=3)
    np.testing.assert_array_equal(steps.average, average_affinities(noisy, OFFSETS[2]))
    np.testing.assert_array_equal(steps.foreground, steps.average > 0.6)
    expected = ndimage.distance_transform_edt(steps.foreground)
    np.testing.assert_allclose(steps.distance, expected, rtol=1e-6)
    assert (steps.distance[steps.seeds > 0] > 0).all()
    components, n = ndimage.label(steps.foreground)
    assert set(np.unique(components[steps.seeds > 0])) == set(range(1, n + 1))
    assert (steps.fragments[steps.seeds > 0] == steps.seeds[steps.seeds > 0]).all()
    assert steps.fragments.min() == 1
    np.testing.assert_array_equal(
        fragments(noisy, OFFSETS[2], threshold=0.6, min_seed_distance=3), steps.fragments
    )


def test_memory_of_fragments_in_3d():
    noise = np.random.default_rng(0).random((3, 64, 96, 96), np.float32)
    affinities = np.clip(0.5 + 4 * (ndimage.gaussian_filter(noise, (0, 2, 2, 2)) - 0.5), 0, 1)
    tracemalloc.start()
    assert fragment_steps(affinities, OFFSETS[3], threshold=0.5).fragments.max() > 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / affinities[0].size < 45  # bytes a voxel, without the affinities


def test_sections_on_their_own():
    stack = np.stack([cells((40, 44), 12, seed)[2] for seed in range(3)], axis=1)
    volume = np.concatenate([np.ones_like(stack[:1]), stack])
    pieces = fragments(volume, OFFSETS[3], per_section=True, sampling=(40, 4, 4))
    for z in range(3):
        assert same_partition(pieces[z], fragments(stack[:, z], OFFSETS[2]))
        others = np.delete(pieces, z, axis=0)
        assert not np.intersect1d(pieces[z], others).size
    assert same_partition(pieces, fragments(stack, OFFSETS[3][1:], per_section=True))
    with pytest.raises(ValueError, match="no offset is a unit step along axis 0"):
        fragments(stack, OFFSETS[3][1:])
    with pytest.raises(ValueError, match="per_section needs a volume"):
        fragments(stack[:, 0], OFFSETS[2], per_section=True)


def test_anisotropic_distances():
    affinities = np.ones((3, 5, 9, 9), np.float32)
    affinities[:, :, 4, 4] = 0
    steps = fragment_steps(affinities, OFFSETS[3], threshold=0.99, sampling=(40, 4, 8))
    background = ~steps.foreground
    expected = ndimage.distance_transform_edt(~background, (10, 1, 2))
    np.testing.assert_allclose(steps.distance, expected, rtol=1e-6)


def test_small_objects_are_removed():
    affinities = np.array([[0, 1, 1, 0, 1]], np.float32)
    assert segment(affinities, [(-1,)], method="connected_components", min_size=3).tolist() == [
        1, 1, 1, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_one_voxel(method):
    for ndim in (2, 3):
        labels = segment(np.ones((ndim, *[1] * ndim), np.float32), OFFSETS[ndim], method=method)
        assert labels.ravel().tolist() == [1]
        assert labels.dtype == np.uint64


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1, 9), (3, 1, 4)])
@pytest.mark.parametrize("method", METHODS)
def test_thin_volumes(method, shape):
    affinities = np.ones((len(shape), *shape), np.float32)
    assert (segment(affinities, OFFSETS[len(shape)], method=method) == 1).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.3, 0.6, 1.0])
def test_constant_affinities(method, value):
    affinities = np.full((2, 12, 13), value, np.float32)
    labels = segment(affinities, OFFSETS[2], method=method)
    assert labels.shape == (12, 13)
    if value >= 0.5:
        assert (labels == 1).all()


def test_no_seeds_at_all():
    nothing = np.zeros((2, 8, 9), np.float32)
    steps = fragment_steps(nothing, OFFSETS[2])
    assert not steps.seeds.any()
    assert not steps.fragments.any()
    assert not segment(nothing, OFFSETS[2]).any()
    # Weak everywhere, but not zero: one part without a peak.
    assert (fragments(nothing + np.float32(0.2), OFFSETS[2]) == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_outside_the_volume_is_ignored(method):
    _, _, noisy = cells((20, 20), 6, seed=6)
    outside = noisy.copy()
    outside[0, 0], outside[1, :, 0] = np.nan, 7
    one = segment(noisy, OFFSETS[2], method=method)
    np.testing.assert_array_equal(one, segment(outside, OFFSETS[2], method=method))


@pytest.mark.parametrize("method", METHODS)
def test_bad_affinities_are_named(method):
    good = np.full((2, 5, 5), 0.5, np.float32)
    for place, text in [(np.nan, "NaN or infinity"), (1.5, r"must lie in \[0, 1\]")]:
        bad = good.copy()
        bad[0, 2, 2] = place
        with pytest.raises(ValueError, match=text):
            segment(bad, OFFSETS[2], method=method)
    with pytest.raises(ValueError, match="empty"):
        segment(good[:, :0], OFFSETS[2], method=method)
    with pytest.raises(ValueError, match="affinities must have shape"):
        segment(good[0], OFFSETS[2], method=method)
    with pytest.raises(TypeError, match="floating"):
        segment(np.ones((2, 5, 5), np.uint8), OFFSETS[2], method=method)
    with pytest.raises(TypeError, match="floating"):
        segment(torch.ones((2, 5, 5), dtype=torch.int32), OFFSETS[2], method=method)


def test_bad_arguments_are_named():
    affinities = np.full((2, 5, 5), 0.5, np.float32)
    with pytest.raises(ValueError, match="method must be one of agglomerate, "):
        segment(affinities, OFFSETS[2], method="magic")
    with pytest.raises(ValueError, match="absorb must be a number of voxels, got -1"):
        segment(affinities, OFFSETS[2], absorb=-1)
    with pytest.raises(ValueError, match='absorb is for method "agglomerate"'):
        segment(affinities, OFFSETS[2], method="connected_components", absorb=9)
    with pytest.raises(ValueError, match="sampling must be 2 positive numbers"):
        fragments(affinities, OFFSETS[2], sampling=(4, 4, 4))
    with pytest.raises(ValueError, match="sampling must be 2 positive numbers"):
        fragments(affinities, OFFSETS[2], sampling=(4, 0))
    for method in METHODS:
        with pytest.raises(ValueError, match=r"sampling must be 2 .* got \(40.0,\)"):
            segment(affinities, OFFSETS[2], method=method, sampling=(40.0,))
    volume = np.full((3, 2, 5, 5), 0.5, np.float32)
    with pytest.raises(ValueError, match="sampling must be 3 positive numbers"):
        segment(volume, OFFSETS[3], sampling=(40.0,))
    with pytest.raises(ValueError, match="labels must be sections"):
        link_sections(np.ones((5, 5), int))
    with pytest.raises(ValueError, match="affinities must have shape"):
        link_sections(np.ones((2, 5, 5), int), affinities=np.ones((5, 5)))


@pytest.mark.parametrize("method", METHODS)
def test_tensors_and_other_floats(method):
    _, _, noisy = cells((20, 22), 6, seed=7)
    labels = segment(noisy, OFFSETS[2], method=method)
    tensor = segment(torch.from_numpy(noisy), torch.tensor(OFFSETS[2]), method=method)
    assert tensor.dtype == torch.int64
    np.testing.assert_array_equal(tensor.numpy(), labels.astype(np.int64))
    np.testing.assert_array_equal(
        segment(noisy.astype(np.float64), OFFSETS[2], method=method), labels
    )
    half = segment(torch.from_numpy(noisy).half(), OFFSETS[2], method=method)
    assert half.shape == noisy.shape[1:]


@pytest.mark.parametrize("method", METHODS)
def test_arguments_stay_as_they_are(method):
    _, _, noisy = cells((20, 22), 6, seed=7)
    before = noisy.copy()
    noisy.flags.writeable = False
    segment(noisy, OFFSETS[2], method=method, min_size=3)
    np.testing.assert_array_equal(noisy, before)


def test_a_weak_pixel_leaks_through_thresholds_only():
    affinities, labels, _ = weak_pixel_leak()
    cell_voxels = np.ones(labels.shape, bool)
    middle = labels.shape[1] // 2
    cell_voxels[:, middle - 1 : middle + 2] = False
    for threshold in (0.3, 0.5, 0.75):
        leaked = connected_components(affinities, OFFSETS[2], threshold)
        assert leaked[0, 0] == leaked[0, -1]
    leaked = threshold_watershed(affinities, OFFSETS[2], 0.3)
    assert leaked[0, 0] == leaked[0, -1]
    found = segment(affinities, OFFSETS[2])
    assert same_partition(found[cell_voxels], labels[cell_voxels])


def test_the_same_tree_hides_different_channels():
    agreeing, disagreeing, in_tree, labels = same_tree_different_channels()
    assert (np.abs(agreeing - disagreeing) > 0.6).sum() > agreeing[1].size / 2
    np.testing.assert_array_equal(agreeing[in_tree], disagreeing[in_tree])
    pairs = np.array([(a, b) for a in range(labels.size) for b in range(a)])
    both = [maximin_edges(x, OFFSETS[2], pairs) for x in (agreeing, disagreeing)]
    np.testing.assert_array_equal(*both)
    used = np.zeros_like(in_tree)
    used[tuple(both[0].T)] = True
    np.testing.assert_array_equal(used, in_tree)
    for threshold in (0.05, 0.3, 0.6, 0.75, 0.85):
        one, other = (
            connected_components(x, OFFSETS[2], threshold) for x in (agreeing, disagreeing)
        )
        np.testing.assert_array_equal(one, other)
    assert same_partition(connected_components(disagreeing, OFFSETS[2], 0.5), labels)
    averages = [average_affinities(x, OFFSETS[2]) for x in (agreeing, disagreeing)]
    assert averages[0].min() > 0.4 and np.median(averages[1]) < 0.5


def test_pictures_of_traps_have_a_least_size():
    with pytest.raises(ValueError, match="at least 7 and 11"):
        weak_pixel_leak(5, 5)
    with pytest.raises(ValueError, match="at least 2 and 4"):
        same_tree_different_channels(1, 9)


class TestInside:
    """Where objects have their inside, whatever affinities a network is used to."""

    def test_the_scale_of_the_affinities_does_not_matter(self):
        labels, _, affinities = cells((60, 70), 25)
        unsure = np.maximum(affinities, 0.1) / 2  # as MALIS may leave it: it asks for the order
        assert average_affinities(unsure, OFFSETS[2]).max() < 0.9
        cut = segment(unsure, OFFSETS[2], threshold=0.25)
        assert adapted_rand(cut, labels) < 0.1
        assert same_partition(segment(unsure / 4, OFFSETS[2], threshold=0.25 / 4), cut)

    def test_by_hand(self):
        affinities = np.full((1, 10), 0.5, np.float32)
        affinities[0, 4] = 0.1  # the voxels at its ends have the average 0.3, all others 0.5
        inside = inside_threshold(affinities, [(-1,)])
        # Otsu: where the first bin above 0.3 begins; the mean above it is 0.5, up to half a bin.
        assert inside == pytest.approx((0.3 + 0.5) / 2, abs=0.5 / 256)
        assert fragments(affinities, [(-1,)], threshold=inside).tolist() == [1] * 4 + [2] * 6
        assert inside_threshold([affinities, affinities], [(-1,)]) == inside
        assert inside_threshold(2 * affinities, [(-1,)]) == pytest.approx(2 * inside)
        low, middle, high = inside_candidates(affinities, [(-1,)])
        assert 0.3 < low < middle == inside < high < 0.5

    @pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
    def test_cells_of_two_kinds_are_both_inside(self, share):
        """Some cells lie at 0.89 beside brighter ones, and membranes are rare or frequent."""
        rng = np.random.default_rng(0)
        n = 100_000
        kinds = rng.choice(3, n, p=[share, (1 - share) / 2, (1 - share) / 2])
        average = np.array([0.15, 0.89, 0.99])[kinds] + 0.004 * rng.standard_normal(n)
        assert 0.2 < inside_of(average) < 0.87

    def test_a_cell_that_is_a_little_pale_is_not_black(self):
        affinities = np.full((2, 21, 42), 0.99, np.float32)
        affinities[:, :, 21:] = 0.89
        affinities[:, :, 20:22] = 0.1
        affinities[1, :, 22] = 0.1
        inside = inside_threshold(affinities, OFFSETS[2])
        steps = fragment_steps(affinities, OFFSETS[2], threshold=inside)
        assert steps.distance[10, 31] == pytest.approx(10, abs=1)
        assert steps.distance[10, 20] == 0
        assert steps.fragments.max() == 2

    def test_nothing_is_inside_of_nothing(self):
        assert inside_threshold(np.zeros((1, 9), np.float32), [(-1,)]) > 0

    def test_all_is_inside_where_all_is_alike(self):
        for value in (0.003, 0.3, 1.0):
            affinities = np.full((2, 9, 9), value, np.float32)
            assert inside_threshold(affinities, OFFSETS[2]) < value

    def test_where_nothing_is_cut_apart_that_is_said(self, caplog):
        _, _, affinities = cells((60, 70), 25)
        assert fragments(affinities * np.float32(0.6), OFFSETS[2]).max() == 1
        assert "inside_threshold finds a threshold that fits" in caplog.text


class TestChoice:
    def test_inside_and_threshold_are_the_best_of_those_that_were_tried(self):
        labels, _, affinities = cells((90, 100), 25, seed=3)
        tried = (0.3, 0.6, 0.9)
        choice = choose_cut([affinities], [labels], OFFSETS[2], candidates=tried)
        scores = []
        for inside in tried:
            hierarchy = hierarchy_of(affinities, OFFSETS[2], inside=inside)
            scores.append(best_threshold(hierarchy, labels)[1].cremi.min())
        assert choice.inside == tried[int(np.argmin(scores))]
        assert choice.curve.cremi.min() == min(scores) < max(scores)
        found = segment(affinities, OFFSETS[2], inside=choice.inside, threshold=choice.threshold)
        volume = Volume(labels[None], (1, 1, 1))
        score = NeuronIds(volume).whole_volume_scores(found[None]).cremi_score
        assert score == pytest.approx(min(scores))

    def test_by_default_the_candidates_come_from_the_affinities(self):
        labels, _, affinities = cells((60, 70), 25)
        choice = choose_cut([affinities / 4], [labels], OFFSETS[2])
        assert choice.inside in inside_candidates(affinities / 4, OFFSETS[2])
