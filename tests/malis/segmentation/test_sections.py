"""Volumes cut section by section: linked by overlap, joined by affinities, or left alone."""

import itertools
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, sparse

from malis.affinity import affinities_from_labels, nearest_offsets
from malis.segmentation import (
    agglomerate,
    connected_components,
    fragments,
    hierarchy_of,
    inside_threshold,
    link_sections,
    segment,
)
from malis.segmentation.sections import link_regions

VOLUME, FLAT = nearest_offsets(3), nearest_offsets(3)[1:]
METHODS = ("agglomerate", "threshold_watershed", "connected_components")


def same_partition(one, other):
    pairs = np.unique(np.stack([np.ravel(one), np.ravel(other)]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def noisy(shape=(5, 40, 48), seed=0):
    """Affinities of cells that shift from section to section, with soft membranes and noise."""
    rng = np.random.default_rng(seed)
    centres = rng.random((16, 3)) * shape
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    labels = ((voxels[..., None, :] - centres) ** 2 * (4, 1, 1)).sum(axis=-1).argmin(axis=-1) + 1
    affinities = affinities_from_labels(labels, VOLUME).astype(np.float32)
    affinities = ndimage.gaussian_filter(affinities, (0, 0, 0.7, 0.7))
    noise = ndimage.gaussian_filter(rng.normal(size=affinities.shape), (0, 0, 1, 1))
    return labels, np.clip(0.9 * affinities + 0.3 * noise, 0.002, 1).astype(np.float32)


class TestLinks:
    def test_they_follow_the_largest_overlap(self):
        labels = np.zeros((3, 4, 10), np.int64)
        labels[0, :, :6], labels[0, :, 6:] = 1, 2
        labels[1, :, :5], labels[1, :, 5:] = 2, 1  # other names for the same neurons
        labels[2, :3, :5], labels[2, 3:, :5], labels[2, :, 7:] = 1, 2, 3  # the first one branches
        linked = link_sections(labels)
        left, right = linked[0, 0, 0], linked[0, 0, 9]
        assert left != right
        assert (linked[1] == np.where(labels[1] == 2, left, right)).all()
        # The larger branch goes on, the smaller one begins a new object.
        expected = np.choose(labels[2], [0, left, 3, right])
        assert (linked[2] == expected).all()
        apart = link_sections(labels, threshold=0.9)
        assert len(np.unique(apart[apart > 0])) == 7  # overlaps of 5/6, 4/5, 3/4, 1/4 and 3/5

    def test_two_objects_of_a_section_are_not_joined_by_a_region_over_both(self):
        labels = np.ones((3, 4, 8), np.int64)
        labels[0, :, 4:] = labels[2, :, 4:] = 2
        assert link_sections(labels).tolist() == [
            [[1] * 4 + [2] * 4] * 4,
            [[1] * 8] * 4,  # of equal shares, the smaller label
            [[1] * 4 + [3] * 4] * 4,
        ]

    @settings(max_examples=80, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 0.5]))
    def test_an_object_has_one_region_in_every_section(self, seed, threshold):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, (4, 3, 3))
        linked = link_sections(labels, threshold=threshold)
        assert ((linked == 0) == (labels == 0)).all()
        for before, after in zip(labels, linked, strict=True):
            assert same_partition(before, after)

    @settings(max_examples=80, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_without_branches_they_are_all_links_to_a_best_match(self, seed):
        """Section by section, and given areas and overlaps only, as between blocks."""
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, (4, 3, 4))
        regions = np.where(labels > 0, labels + 3 * np.arange(4)[:, None, None], 0)
        area = np.bincount(regions.ravel(), minlength=13)
        links = []
        for below, above in itertools.pairwise(regions):
            table = np.zeros((13, 13))
            np.add.at(table, (below.ravel(), above.ravel()), 1)
            table[0], table[:, 0] = 0, 0
            for one, other in np.argwhere(table):
                shared = table[one, other]
                share = shared / (area[one] + area[other] - shared)
                best = shared == table[one].max() or shared == table[:, other].max()
                if best and share >= 0.2:
                    links.append((one, other))
        ends = np.array(links, int).reshape(-1, 2).T
        pairs = regions[:-1].ravel(), regions[1:].ravel()
        both = (pairs[0] > 0) & (pairs[1] > 0)
        pairs = [side[both] for side in pairs]
        of_blocks = link_regions(area, pairs, np.ones(both.sum()))[regions]
        linked = link_sections(labels)
        assert same_partition(linked, of_blocks)
        if all(len(set(side)) == len(side) for side in ends.tolist()):
            graph = sparse.coo_array((np.ones(len(links)), tuple(ends)), (13, 13))
            object_of = sparse.csgraph.connected_components(graph, directed=False)[1]
            assert same_partition(linked, np.where(regions > 0, object_of[regions], 0))

    def test_weak_affinities_break_them(self):
        labels = np.ones((2, 4, 4), np.int64)
        labels[:, :, 2:] = 2
        affinities = np.full((2, 4, 4), 0.9)
        affinities[1, :, 2:] = 0.1
        linked = link_sections(labels, affinities=affinities)
        assert (linked[0, :, :2] == linked[1, :, :2]).all()
        assert linked[0, 0, 3] != linked[1, 0, 3]

    def test_empty_sections_and_tensors(self):
        labels = torch.ones((3, 2, 2), dtype=torch.int64)
        labels[1] = 0
        assert link_sections(labels).tolist() == [[[1, 1]] * 2, [[0, 0]] * 2, [[2, 2]] * 2]


class TestWithoutAffinitiesAcross:
    @pytest.mark.parametrize("method", METHODS)
    def test_sections_are_segmented_and_linked(self, method):
        _, affinities = noisy()
        flat = affinities[1:]
        alone = np.stack([
            segment(flat[:, z], nearest_offsets(2), method=method, inside=0.6) for z in range(5)
        ])  # fmt: skip
        found = segment(flat, FLAT, method=method, inside=0.6)
        np.testing.assert_array_equal(found, link_sections(alone))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("offsets", [VOLUME, FLAT])
    def test_sections_are_left_alone_where_that_is_wanted(self, method, offsets):
        _, affinities = noisy()
        affinities = affinities[-len(offsets) :]
        found = segment(affinities, offsets, method=method, sections=True, inside=0.6)
        begin = 0
        for z, section in enumerate(found):
            alone = segment(affinities[-2:, z], nearest_offsets(2), method=method, inside=0.6)
            np.testing.assert_array_equal(section, alone + np.uint64(begin))
            begin = int(section.max())

    def test_there_must_be_sections(self):
        with pytest.raises(ValueError, match="sections needs a volume"):
            segment(np.ones((2, 4, 4), np.float32), nearest_offsets(2), sections=True)


class TestWithAffinitiesAcross:
    @pytest.mark.parametrize("linkage", ["mean", "single", "quantile"])
    @pytest.mark.parametrize("offsets", [VOLUME, [(0, 1, 0), (1, 0, 0), (0, 0, -1)]])
    def test_the_graph_is_that_of_the_whole_volume(self, linkage, offsets):
        """Section by section, to the last bit, whichever way the edges point."""
        _, affinities = noisy()
        affinities = affinities[[0, 1, 2] if offsets is VOLUME else [1, 0, 2]]
        pieces = fragments(
            affinities, offsets, threshold=0.6, sampling=(40, 8, 4), per_section=True
        )
        whole = agglomerate(affinities, offsets, pieces, linkage=linkage)
        found = hierarchy_of(affinities, offsets, inside=0.6, sampling=(40, 8, 4), linkage=linkage)
        np.testing.assert_array_equal(found.leaves, whole.leaves)
        np.testing.assert_array_equal(found.merges, whole.merges)
        np.testing.assert_array_equal(found.scores, whole.scores)
        assert found.n_fragments == whole.n_fragments > 5 * 10

    def test_by_hand(self):
        """A cell of two sections, and one that ends; a strong edge in plane, weak ones across."""
        affinities = np.ones((3, 2, 3, 6), np.float32)
        affinities[2, :, :, 3] = 0.1  # a membrane in both sections
        affinities[0, 1, :, 3:] = 0.2  # the right cell does not go on
        found = segment(affinities, VOLUME, inside=0.9, per_section=True)
        assert found.tolist() == [[[1] * 3 + [2] * 3] * 3, [[1] * 3 + [3] * 3] * 3]
        found = segment(affinities, VOLUME, inside=0.9, sampling=(40, 4, 4), threshold=0.15)
        assert found.tolist() == [[[1] * 3 + [2] * 3] * 3] * 2

    def test_a_branch_is_one_object_here(self):
        affinities = np.full((3, 2, 3, 9), 0.95, np.float32)
        affinities[:, 1, :, 3:6] = 0.0  # a membrane in the second section, and on its edges
        affinities[2, 1, :, 6] = 0.0
        found = segment(affinities, VOLUME, threshold=0.3, inside=0.9, per_section=True)
        assert found[1, 0, 0] == found[1, 0, 8] == found[0, 0, 4]

    def test_thin_sections_of_a_network_for_sections(self):
        _, affinities = noisy()
        thick = segment(affinities, VOLUME, sampling=(40, 4, 4))
        assert (segment(affinities, VOLUME, sampling=(4, 4, 4), per_section=True) == thick).all()
        assert not same_partition(segment(affinities, VOLUME, sampling=(4, 4, 4)), thick)
        with pytest.raises(ValueError, match="per_section needs a volume"):
            segment(affinities[1:, 0], nearest_offsets(2), per_section=True)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("sampling", [None, (40, 4, 4)])
    def test_files_and_tensors_are_segmented_like_arrays(self, tmp_path, method, sampling):
        _, affinities = noisy()
        settings = {"method": method, "sampling": sampling, "min_size": 4}
        expected = segment(affinities, VOLUME, **settings)
        with h5py.File(tmp_path / "a.hdf", "w") as file:
            file["affinities"] = affinities
            np.testing.assert_array_equal(segment(file["affinities"], VOLUME, **settings), expected)
        found = segment(torch.from_numpy(affinities), VOLUME, **settings)
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.numpy(), expected.astype(np.int64))

    def test_bad_affinities_are_named(self):
        for place in ((0, 2, 3, 3), (1, 2, 3, 3)):
            _, affinities = noisy()
            affinities[place] = np.nan
            with pytest.raises(ValueError, match="NaN or infinity"):
                segment(affinities, VOLUME, per_section=True)
        affinities[:] = 0.5
        affinities[0, 0] = np.nan  # edges that leave the volume
        segment(affinities, VOLUME, per_section=True)
        with pytest.raises(TypeError, match="floating"):
            segment(np.ones((3, 2, 4, 4), np.uint8), VOLUME, per_section=True)

    def test_where_the_inside_is_comes_from_sections_far_apart(self):
        _, affinities = noisy((30, 24, 24))
        affinities[:, 1:3] /= 4  # not among the sections that are looked at
        few = [affinities[1:, z] for z in np.linspace(0, 29, 10).round().astype(int)]
        inside = inside_threshold(few, nearest_offsets(2))
        assert inside != inside_threshold(affinities, VOLUME, per_section=True)
        found = segment(affinities, VOLUME, per_section=True)
        assert (segment(affinities, VOLUME, per_section=True, inside=inside) == found).all()


def test_perfect_affinities_give_perfect_neurons():
    labels = np.repeat(np.repeat(noisy()[0], 2, axis=1), 2, axis=2)  # no cell of a single pixel
    perfect = affinities_from_labels(labels, VOLUME).astype(np.float32)
    found = segment(perfect, VOLUME, sampling=(40, 4, 4))
    assert same_partition(found, connected_components(perfect, VOLUME, 0.5))


class Repeated:
    """A large volume of affinities that takes no memory: the same section again and again."""

    dtype = np.dtype(np.float32)

    def __init__(self, section, depth):
        self.section, self.shape = section, (len(section), depth, *section.shape[1:])

    def __getitem__(self, index):
        channels, z = index
        assert isinstance(z, int)  # one section at a time
        return np.roll(self.section, z, axis=2)[channels]


@pytest.mark.parametrize(("offsets", "limit"), [(FLAT, 10), (VOLUME, 14)])
def test_memory_grows_by_the_labels_alone(offsets, limit):
    """Bytes a voxel: 8 for labels, and 4 for fragments that edges across sections put together."""
    section = np.tile(noisy()[1][:, 0], (1, 4, 4))[-len(offsets) :]
    peaks = []
    for depth in (8, 40):
        tracemalloc.start()
        segment(Repeated(section, depth), offsets, per_section=True, inside=0.6)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (32 * section[0].size) < limit
