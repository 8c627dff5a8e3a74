import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import malis
from malis import (
    MalisLoss,
    MaximinLoss,
    affinities_from_labels,
    maximin_edges,
    nearest_offsets,
    pair_counts,
)
from malis.compiled import compiled_maximin_edges, compiled_pair_counts
from malis.compiled.kruskal import count_labels, region_line, sort_edges, weakest_links

# The example of malis.compiled.kruskal: six voxels a ... f in a row, with labels 1 2 1 1 0 2.
#
#   a ---.2--- b ---.9--- c ---.5--- d ---.8--- e ---.7--- f
A, B, C, D, E, F = range(6)
ROW = np.array([[0.2, 0.9, 0.5, 0.8, 0.7, 0.0]], dtype=np.float32)
LABELS = np.array([1, 2, 1, 1, 0, 2], dtype=np.int32)
MERGES = np.array([[B, D, D, D, D], [C, E, F, B, A], [1, 3, 4, 2, 0]], dtype=np.uint32)


def test_the_line_of_six_voxels():
    weights = np.array([1, 1, 1, 1, 0, 1])
    heavy, light, _ = MERGES.astype(np.int32)
    labels, weights, sizes, ends = region_line(heavy, light, LABELS, weights)
    assert labels.tolist() == [1, 0, 2, 2, 1, 1]  # d e f b c a
    assert sizes.tolist() == [6, 1, 1, 2, 1, 1]
    table = np.zeros(3, dtype=np.int64)
    same, different = count_labels(labels, weights, sizes, ends, table)
    assert same[:5].tolist() == [0, 0, 0, 2, 2]
    assert different[:5].tolist() == [1, 0, 1, 2, 2]
    assert not table.any()


def test_the_counts_and_weakest_links_of_six_voxels():
    positive, negative = pair_counts(ROW, LABELS, [(1,)], constrained=False, backend="numba")
    assert positive.tolist() == [[2, 0, 2, 0, 0, 0]]
    assert negative.tolist() == [[2, 1, 2, 0, 1, 0]]
    pairs = np.array([[A, E], [E, F], [C, F]])
    assert weakest_links(MERGES, 6, pairs).tolist() == [0, 4, 2]


@settings(deadline=None)  # the first call compiles
@given(hnp.arrays(np.uint64, st.integers(0, 50), elements=st.integers(0, 2**64 - 1)), st.booleans())
def test_edges_are_sorted_by_their_upper_half(words, few):
    if few:  # many of equal keys
        words &= np.uint64(0x0030000100000007)
    expected = words[np.argsort(words >> np.uint64(32), kind="stable")]
    found = sort_edges(words.copy(), np.empty_like(words))
    np.testing.assert_array_equal(found, expected)


@st.composite
def batches(draw):
    """Small graphs of every kind: any offsets, ties, either sign, split labels, masks."""
    ndim = draw(st.integers(1, 4))
    limit = {1: 40, 2: 8, 3: 4, 4: 3}[ndim]
    shape = tuple(draw(st.integers(1, limit)) for _ in range(ndim))
    step = st.tuples(*[st.integers(-5, 5)] * ndim).filter(any)
    near = [tuple(-int(axis == row) for axis in range(ndim)) for row in range(ndim)]
    offsets = draw(st.one_of(st.just(near), st.lists(step, min_size=1, max_size=6)))
    batch = draw(st.sampled_from([(), (1,), (3,)]))
    grid = (*batch, len(offsets), *shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    logits = rng.integers(-levels, levels + 1, grid) / np.float32(draw(st.sampled_from([1, 7e4])))
    logits = logits.astype(np.float32) * np.where(rng.random(grid) < 0.5, np.float32(1), -1)
    n_labels = draw(st.sampled_from([0, 1, 3, 1000]))
    labels = rng.integers(0, n_labels + 1, (*batch, *shape))
    masks = {}
    if draw(st.booleans()):
        masks["edge_mask"] = rng.random(grid) < draw(st.sampled_from([0.2, 0.9]))
    if draw(st.booleans()):
        masks["labelled_mask"] = rng.random((*batch, *shape)) < draw(st.sampled_from([0.2, 0.9]))
    return logits.astype(np.float32), labels, np.array(offsets), masks


def as_affinities(logits):
    """Affinities in the order of logits, equal where they are equal."""
    levels, places = np.unique(logits + np.float32(0), return_inverse=True)
    return (places.reshape(logits.shape) / max(1, len(levels) - 1)).astype(np.float32)


@settings(deadline=None)
@given(batches(), st.booleans())
def test_counts_of_logits_equal_higras_and_the_parallel_ones(batch, constrained):
    logits, labels, offsets, masks = batch
    given = masks.get("edge_mask"), masks.get("labelled_mask")
    found = compiled_pair_counts(logits, labels, *given, offsets, constrained)
    for backend in ("higra", "parallel", "numba"):
        expected = pair_counts(
            as_affinities(logits),
            labels,
            offsets,
            constrained=constrained,
            backend=backend,
            **masks,
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == np.int64
            np.testing.assert_array_equal(ours, theirs)


@settings(deadline=None)
@given(batches(), st.data())
def test_maximin_edges_equal_higras(batch, data):
    logits, _, offsets, _ = batch
    ndim = offsets.shape[1]
    logits = logits.reshape(-1, *logits.shape[-ndim - 1 :])[0]
    n_voxels = logits[0].size
    places = st.integers(0, n_voxels - 1)
    pairs = data.draw(st.lists(st.tuples(places, places).filter(lambda pair: pair[0] != pair[1])))
    pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    expected = maximin_edges(as_affinities(logits), offsets, pairs, backend="higra")
    np.testing.assert_array_equal(compiled_maximin_edges(logits, offsets, pairs), expected)


def test_zero_of_either_sign_is_one_value():
    values = np.array([[-1e-30, -0.0, 0.0, -0.0, 1e-30]], dtype=np.float32)
    positive, _ = compiled_pair_counts(values, np.ones(5, int), None, None, np.array([(1,)]))
    # the tiny one is no edge; then the zeros by position, then the negative one
    assert positive.tolist() == [[4, 1, 2, 3, 0]]


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_counts_on_real_labels(fib25, make_affinities, constrained, masked):
    offsets = [*nearest_offsets(3), (-3, 0, 0), (0, 4, -5)]
    affinities = make_affinities(affinities_from_labels(fib25, offsets))
    rng = np.random.default_rng(0)
    options = {"constrained": constrained}
    if masked:
        options["edge_mask"] = rng.random(affinities.shape) < 0.95
        options["labelled_mask"] = rng.random(fib25.shape) < 0.95
    found = pair_counts(affinities, fib25, offsets, backend="numba", **options)
    expected = pair_counts(affinities, fib25, offsets, backend="higra", **options)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("levels", [1, 2, 1000])
def test_counts_where_the_stronger_half_goes_first(levels):
    # More than FEW edges, and so many ties that the median is the least, too.
    rng = np.random.default_rng(levels)
    affinities = (rng.integers(0, levels, (2, 150, 150)) / levels).astype(np.float32)
    labels = np.kron(rng.integers(0, 9, (15, 15)), np.ones((10, 10), int))
    for constrained in (True, False):
        options = {"constrained": constrained}
        found = pair_counts(affinities, labels, nearest_offsets(2), backend="numba", **options)
        expected = pair_counts(affinities, labels, nearest_offsets(2), backend="higra", **options)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("descending", [True, False])
def test_a_hundred_thousand_labels_in_a_chain(constrained, descending):
    # Each merge adds one voxel to all others; a table of labels would have 10^10 entries.
    n_voxels = 100_000
    affinities = np.linspace(0, 1, n_voxels, dtype=np.float32)[None, :: -1 if descending else 1]
    labels = np.arange(1, n_voxels + 1)
    positive, negative = pair_counts(
        affinities, labels, [(-1,)], constrained=constrained, backend="numba"
    )
    assert not positive.any()
    sizes = np.arange(n_voxels) if descending else np.arange(n_voxels)[::-1] + 1
    sizes[0] = 0  # no edge
    np.testing.assert_array_equal(negative[0], sizes)


@pytest.mark.parametrize("read_only", [True, False])
def test_arguments_are_left_alone_and_may_be_read_only(read_only):
    rng = np.random.default_rng(0)
    affinities, labels = rng.random((2, 6, 7), dtype=np.float32), rng.integers(0, 4, (6, 7))
    masks = {"edge_mask": rng.random((2, 6, 7)) < 0.8, "labelled_mask": rng.random((6, 7)) < 0.8}
    arrays = [affinities, labels, *masks.values()]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = not read_only
    pair_counts(affinities, labels, nearest_offsets(2), backend="numba", **masks)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("make", [MalisLoss, MaximinLoss])
@pytest.mark.parametrize("from_logits", [False, True])
def test_losses_and_gradients_are_those_of_higra(make, from_logits):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(2, 2, 12, 12, generator=generator)
    if from_logits:
        prediction = 60 * prediction - 30
    labels = torch.randint(0, 4, (2, 12, 12), generator=generator)
    results = []
    for backend in ("numba", "higra"):
        torch.manual_seed(1)  # of the pairs
        given = prediction.clone().requires_grad_()
        loss = make(nearest_offsets(2), from_logits=from_logits, backend=backend)(given, labels)
        results.append((loss.detach(), *torch.autograd.grad(loss, given)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    assert results[0][0] > 0


SCRIPT = """
import numpy as np
import malis.compiled.kruskal as kruskal
words = np.array([3, 1, 2], np.uint64) << np.uint64(32)
assert (kruskal.sort_edges(words, np.empty_like(words)) == np.sort(words)).all()
print(kruskal.__file__)
"""


def run_copy(tmp_path, home):
    """Sort in a copy of the package in which Numba cannot write; return the folder of the copy.

    A file stands where its folder of compiled code would be: that stops root, too.
    """
    copy = tmp_path / "installed/malis"
    shutil.copytree(Path(malis.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "compiled/__pycache__").touch()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copy.parent), "HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(copy / "compiled/kruskal.py")
    return copy


def test_a_read_only_installation_is_cached_for_the_user(tmp_path):
    (tmp_path / "home").mkdir()
    copy = run_copy(tmp_path, tmp_path / "home")
    assert list((tmp_path / "home").rglob("kruskal.sort_edges-*.nbi"))
    assert not list(copy.rglob("*.nbi"))


def test_it_works_where_nothing_can_be_written(tmp_path):
    run_copy(tmp_path, "/dev/null/nowhere")
    assert not list(tmp_path.rglob("*.nbi"))
