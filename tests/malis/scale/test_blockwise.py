"""Blocks give what one piece gives; computed in this process, without a cluster."""

import numpy as np
import pytest
import zarr
from blockwise_cases import QUIET, make_cells, write_model, write_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from malis import nearest_offsets, segment
from malis.inference import predict
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.scale import predict_volume, segment_affinities, segment_volume
from malis.scale.blocks import cut_into_blocks, grow, within
from malis.scale.graph import drop_hopeless, join_graphs
from malis.scale.memory import forward_memory, memory_to_predict, memory_to_segment
from malis.scale.ome_zarr import create_ome_zarr
from malis.scale.output import Output
from malis.scale.stages import Recipe, boundary_block, name_fragments
from malis.scale.volumes import open_volume
from malis.segmentation import (
    Hierarchy,
    agglomerate,
    fragments,
    inside_threshold,
    merge_regions,
    region_graph,
)
from malis.segmentation.oversegmentation import fragment_steps
from malis.segmentation.regions import RegionSums
from malis.training.checkpoint import load_model
from unet.plain import PlainCNN


def voi(one, other):
    """Variation of information between two labellings, split and merge together, in bits."""
    joint = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1, return_counts=True)[1]
    parts = [np.unique(labels, return_counts=True)[1] for labels in (one, other)]

    def entropy(counts):
        p = counts / one.size
        return -(p * np.log2(p)).sum()

    return 2 * entropy(joint) - sum(map(entropy, parts))


@pytest.fixture(scope="session")
def cells():
    return make_cells()


# ---- blocks ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(1, 8)] * 3))
def test_every_voxel_lies_in_exactly_one_block(shape, block):
    count = np.zeros(shape, int)
    for part in cut_into_blocks(shape, block):
        count[part.box] += 1
    assert (count == 1).all()


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(1, 8)] * 3), st.data())
def test_blocks_that_meet_a_box(shape, block, data):
    corners = [
        sorted((data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n)))) for n in shape
    ]
    box = tuple(slice(a, max(b, a + 1)) for a, b in corners)
    touched = np.zeros(shape, bool)
    touched[box] = True
    expected = [part for part in cut_into_blocks(shape, block) if touched[part.box].any()]
    assert cut_into_blocks(shape, block, box) == expected


def test_no_block_lists_the_others(tmp_path, cells, monkeypatch):
    """Time is linear in the number of blocks: all are listed once, not once a block."""
    source = write_volume(tmp_path / "affinities.zarr", cells[0][:, :8, :32, :32], (8, 8, 8))
    counts = []
    for side in (16, 8):
        listings = []
        with monkeypatch.context() as patch:
            patch.setattr(
                "malis.scale.output.cut_into_blocks",
                lambda *arguments: listings.append(1) or cut_into_blocks(*arguments),  # noqa: B023
            )
            options = {"block": (8, side, side), "halo": 2, "overwrite": True, **QUIET}
            report = segment_affinities(source, tmp_path / "out.zarr", threshold=0.5, **options)
        counts.append((report["n_blocks"], len(listings)))
    assert counts == [(4, 1), (16, 1)]


def test_a_halo_ends_at_the_border_of_the_volume():
    box = (slice(0, 4), slice(4, 8))
    outer = grow(box, (2, 3), (10, 9))
    assert outer == (slice(0, 6), slice(1, 9))
    assert within(box, outer) == (slice(0, 4), slice(3, 7))


# ---- affinities ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, block",
    [
        ("unet-3d", (32, 33, 34)),
        ("unet-3d-padded", (31, 32, 33)),
        ("unet-3d-flat-pools", (3, 53, 60)),
        ("unet-2d", (2, 45, 47)),
        ("unet-2d-neighbours", (3, 45, 47)),
        ("cnn-3d", (9, 11, 20)),
    ],
)
def test_affinities_are_those_of_one_piece(tmp_path, kind, block):
    rng = np.random.default_rng(1)
    shape = (7, 93, 101) if "2d" in kind or "flat" in kind else (45, 51, 70)
    raw = rng.integers(0, 256, shape, dtype=np.uint8)
    source = write_volume(tmp_path / "raw.zarr", raw)
    model = write_model(tmp_path / "some.model", kind)
    report = predict_volume(source, tmp_path / "out.zarr", model, block=block, **QUIET)
    assert report["n_blocks"] > 3
    network = load_model(model).network
    expected = predict(network, stack_neighbours(raw, neighbours_of(network)), progress=False)
    result = open_volume(tmp_path / "out.zarr")
    assert result.dtype == np.float32
    assert (result.resolution, result.offset) == (source.resolution, source.offset)
    assert expected.std() > 0.05  # it is not the same everywhere
    np.testing.assert_allclose(result[...], expected, atol=2e-6)


# ---- segmentation ----------------------------------------------------------------------------


@pytest.mark.parametrize("linkage", ["mean", "single"])
@pytest.mark.parametrize("absorb", [0, 300])
def test_blocks_whose_halo_covers_the_volume_give_the_same_labels(tmp_path, cells, linkage, absorb):
    affinities = cells[0][:, :, :40, :48]
    source = write_volume(tmp_path / "affinities.zarr", affinities, (8, 8, 8))
    offsets = nearest_offsets(3)
    pieces = fragments(affinities, offsets, threshold=inside_threshold(affinities, offsets))
    hierarchy = agglomerate(affinities, offsets, pieces, linkage=linkage)
    threshold = float(np.quantile(hierarchy.scores, 0.8))  # a fifth of the merges are made
    options = {"threshold": threshold, "linkage": linkage, "absorb": absorb}
    shape = {"block": (16, 24, 16), "halo": 48}
    segment_affinities(source, tmp_path / "out.zarr", **options, **shape, **QUIET)
    labels = open_volume(tmp_path / "out.zarr")[...]
    np.testing.assert_array_equal(labels, hierarchy.cut(threshold, absorb))
    small = np.bincount(hierarchy.cut(threshold).ravel().astype(int))[1:] < 300
    assert small.any() and not small.all()


@pytest.mark.parametrize("resolution", [(8, 8, 8), (40, 4, 4)])
def test_segmentation_equals_the_one_piece_one(tmp_path, cells, resolution):
    affinities, truth = cells
    source = write_volume(tmp_path / "affinities.zarr", affinities, resolution)
    segment_affinities(
        source, tmp_path / "out.zarr", threshold=0.5, block=(12, 32, 36), halo=24, **QUIET
    )
    labels = open_volume(tmp_path / "out.zarr")[...]
    expected = segment(affinities, nearest_offsets(3), threshold=0.5, sampling=resolution)
    assert voi(labels, expected) < 0.01
    assert voi(expected, truth) < 2  # a segmentation worth comparing with
    assert voi(open_volume(tmp_path / "out.zarr", "fragments")[...], expected) > 0.5


@pytest.mark.parametrize("absorb", [0, 60])
def test_sections_of_a_2d_network_are_linked_as_in_one_piece(tmp_path, cells, absorb):
    affinities = cells[0][1:]
    offsets = [(0, -1, 0), (0, 0, -1)]
    source = write_volume(tmp_path / "affinities.zarr", affinities, offsets=offsets)
    merging = {"threshold": 0.7, "absorb": absorb}
    segment_affinities(
        source, tmp_path / "out.zarr", **merging, block=(7, 32, 36), halo=24, **QUIET
    )
    labels = open_volume(tmp_path / "out.zarr")[...]
    expected = segment(affinities, offsets, **merging, sampling=(40, 4, 4))
    area = np.bincount(expected[3].astype(int).ravel())
    assert absorb == 0 or area[area > 0].min() >= absorb
    assert len(np.intersect1d(expected[0], expected[-1])) > 10  # objects do cross sections
    assert voi(labels, expected) < 0.01


def test_a_fragment_across_a_face_has_one_name(cells):
    affinities, shape = cells[0][:, :, :72, :96], (24, 72, 96)
    whole = fragment_steps(affinities, nearest_offsets(3))
    names = name_fragments(whole, tuple(slice(0, n) for n in shape), shape)[whole.fragments]
    box = (slice(0, 24), slice(0, 72), slice(20, 96))
    part = fragment_steps(affinities[(slice(None), *box)], nearest_offsets(3))
    same = name_fragments(part, box, shape)[part.fragments] == names[box]
    assert same[:, :, 24:].all()  # beyond the reach of the cut
    assert not same.all()
    assert len(np.unique(names)) == len(np.unique(whole.fragments))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 5)] * 3))
def test_every_boundary_edge_is_counted_once(tmp_path_factory, seed, block):
    """Sums over blocks equal those of the whole, whichever way the offsets point."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 8, 3).tolist())
    pieces = rng.integers(0, 6, shape).astype(np.uint64)
    offsets = [tuple(rng.choice([-1, 1]) * row) for row in np.eye(3, dtype=int)] + [(0, -2, 1)]
    affinities = rng.random((4, *shape), dtype=np.float32)
    folder = tmp_path_factory.mktemp("boundaries")
    place = {"resolution": (1, 1, 1), "offset": (0, 0, 0), "block": block}
    create_ome_zarr(folder / "fragments", shape, np.uint64, fill_value=2**64 - 1, **place)
    output = Output(folder, shape, block)
    for part in output.blocks:
        output.write("fragments", part.box, pieces[part.box])
    recipe = Recipe(tuple(offsets), (1, 1, 1), False, False, (0, 0, 0))
    for part in output.blocks:
        boundary_block(output, affinities, recipe, part)
    parts = output.read_tables("boundaries")
    ids = np.unique(pieces[pieces > 0])
    sums = join_graphs(ids, parts)
    expected = region_graph(affinities, offsets, pieces)
    np.testing.assert_array_equal(sums.edges, expected.edges)
    np.testing.assert_array_equal(sums.contact, expected.contact)
    np.testing.assert_allclose(sums.total, expected.total)
    np.testing.assert_array_equal(sums.maximum, expected.maximum)
    sizes = dict.fromkeys(ids.tolist(), 0)
    for part in parts:
        for fragment, size in zip(part["ids"].tolist(), part["sizes"].tolist(), strict=True):
            sizes[fragment] += size
    assert sizes == {i: int((pieces == i).sum()) for i in ids.tolist()}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "single"]))
def test_what_is_dropped_from_the_graph_changes_no_cut(seed, linkage):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    edges = np.argwhere(np.triu(rng.random((n, n)) < 0.5, 1))
    contact = rng.integers(1, 9, len(edges))
    mean = rng.random(len(edges))
    graph = RegionSums(n, edges, contact, mean * contact, np.sqrt(mean).astype(np.float32))
    fewer = drop_hopeless(graph, linkage, 0.6)
    cuts = [
        Hierarchy(np.zeros(0), n, *merge_regions(g, linkage=linkage)).regions(0.6)
        for g in (graph, fewer)
    ]
    np.testing.assert_array_equal(*cuts)
    assert len(fewer.edges) <= len(edges)
    assert len(drop_hopeless(graph, linkage, 1.1).edges) == 0


def test_from_raw_data_to_labels_with_the_threshold_of_the_card(tmp_path):
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 256, (12, 40, 40), dtype=np.uint8)
    source = write_volume(tmp_path / "raw.zarr", raw, (8, 8, 8))
    card = {"scores": {"agglomeration": {"threshold": 0.6, "absorb": 9}}}
    model = write_model(tmp_path / "some.model", "cnn-3d", card)
    report = segment_volume(source, tmp_path / "out.zarr", model, block=(9, 20, 20), **QUIET)
    assert report["threshold"] == 0.6
    labels = open_volume(tmp_path / "out.zarr")
    assert labels.dtype == np.uint64
    assert (labels.resolution, labels.offset) == ((8, 8, 8), (80, 8, 4))
    affinities = predict(load_model(model).network, raw, progress=False)
    merging = {"threshold": 0.6, "absorb": 9, "sampling": (8, 8, 8)}
    expected = segment(affinities, nearest_offsets(3), **merging)
    assert voi(labels[...], expected) < 0.01


def test_affinities_of_an_earlier_run_are_segmented_anew(tmp_path, cells):
    """By the path of the run, with the offsets that it noted; uint8 counts in 255ths."""
    affinities = np.round(255 * cells[0][:, :10, :40, :40]).astype(np.uint8)
    (tmp_path / "run.zarr").mkdir()
    offsets = nearest_offsets(3)
    write_volume(tmp_path / "run.zarr/affinities", affinities, (8, 8, 8), offsets=offsets)
    write_volume(tmp_path / "run.zarr/segmentation", affinities[0], (8, 8, 8))
    zarr.create_group(tmp_path / "run.zarr")
    segment_affinities(tmp_path / "run.zarr", tmp_path / "out.zarr", threshold=0.4, **QUIET)
    expected = segment(affinities / np.float32(255), offsets, threshold=0.4, sampling=(8, 8, 8))
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr")[...], expected)


# ---- what viewers and workers need ------------------------------------------------------------


def test_coarser_levels_hold_every_second_voxel(tmp_path):
    affinities = np.random.default_rng(0).random((3, 6, 300, 40), np.float32)
    source = write_volume(tmp_path / "affinities.zarr", affinities)
    segment_affinities(
        source, tmp_path / "out.zarr", threshold=0.5, block=(4, 128, 40), halo=4, **QUIET
    )
    fine, coarse = (open_volume(tmp_path / f"out.zarr/segmentation/{level}") for level in (0, 1))
    assert fine[...].max() > 10
    np.testing.assert_array_equal(coarse[...], fine[...][:, ::2, ::2])
    assert (fine.resolution, coarse.resolution) == ((40, 4, 4), (40, 8, 8))


def test_the_memory_of_a_network_is_the_sum_of_its_layers():
    """A 9x9x9 input: 5 maps of 5x5x5 before and after tanh, 3 of one voxel; float32."""
    network = PlainCNN(out_channels=3, ndim=3, n_layers=2)
    assert forward_memory(network, (9, 9, 9)) == 4 * (2 * 5 * 125 + 3)


def test_a_worker_needs_no_more_memory_for_a_larger_volume(tmp_path):
    network, halo = PlainCNN(out_channels=3, ndim=3), (0, 80, 80)
    block = (32, 64, 64)
    small, large, huge = ((n, 4 * n, 4 * n) for n in (64, 256, 4096))
    predicting = [memory_to_predict(network, shape, block, 64) for shape in (small, large, huge)]
    segmenting = [memory_to_segment(shape, block, halo, 3) for shape in (small, large, huge)]
    assert predicting[1] == predicting[2]
    assert segmenting[0] == segmenting[1] == segmenting[2]
    assert segmenting[2] - memory_to_segment(huge, (16, 64, 64), halo, 3) == 16 * 224**2 * 116


def test_a_block_without_any_object_is_done_all_the_same(tmp_path):
    source = write_volume(tmp_path / "a.zarr", np.zeros((3, 4, 9, 9), np.float32))
    segment_affinities(source, tmp_path / "out.zarr", threshold=0.5, block=(2, 5, 9), **QUIET)
    output = Output(tmp_path / "out.zarr", (4, 9, 9), (2, 5, 9))
    assert not any(map(output.pending, ("averages", "fragments", "boundaries", "segmentation")))
    assert not open_volume(output.path)[...].any()


@pytest.mark.parametrize("resolution, halo", [((40, 4, 4), [0, 80, 80]), ((8, 8, 8), [32] * 3)])
def test_the_halo_is_wide_where_that_is_cheap(tmp_path, resolution, halo):
    source = write_volume(tmp_path / "a.zarr", np.full((3, 2, 9, 9), 0.9, np.float32), resolution)
    segment_affinities(source, tmp_path / "out.zarr", threshold=0.5, **QUIET)
    notes = zarr.open_group(tmp_path / "out.zarr/progress").attrs
    assert notes["settings"]["halo"] == halo
