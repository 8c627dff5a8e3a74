import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import count_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from malis import malis_weights, nearest_offsets, pair_counts, rand_error
from malis._checks import choose_backend
from malis.affinity import affinities_from_labels, existing_edges
from malis.pairs import count_label_pairs
from malis.segmentation import connected_components

pytestmark = pytest.mark.usefixtures("each_host_backend")

OWN = Path(__file__).parents[1] / "fixtures/malis"
SHARED = Path(__file__).parents[2] / "../shared/fixtures/malis"
CASES = sorted(path for path in OWN.glob("*.npz") if path.stem != "3d_zero_offset")
REAL = ["fib25_24cube", "fib25_24cube_longrange", "fib25_24cube_bg_mask", "fib25_2d_96"]


def assert_equals_reference(path):
    case = np.load(path)
    masks = {
        "edge_mask": case.get("gt_aff_mask"),
        "labelled_mask": case.get("gt_seg_unlabelled"),
    }
    arguments = case["affs"], case["labels"], case["offsets"]
    positive, negative = pair_counts(*arguments, **masks)
    np.testing.assert_array_equal(positive, case["counts_pos"])
    np.testing.assert_array_equal(negative, case["counts_neg"])

    # The reference knows no masks here, but the unlabelled voxels are one object to it.
    effective = "labels_effective" if "labels_effective" in case else "labels"
    positive, negative = pair_counts(
        case["affs"], case[effective], case["offsets"], constrained=False
    )
    np.testing.assert_array_equal(positive, case["uncon_counts_pos"])
    np.testing.assert_array_equal(negative, case["uncon_counts_neg"])


def test_all_reference_cases_are_here():
    assert len(CASES) == 27


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_counts_equal_the_reference_program(path):
    assert_equals_reference(path)


@pytest.mark.parametrize("name", [*REAL, "fib25_2d_96_bg"])
def test_counts_equal_the_reference_program_on_real_labels(name):
    path = SHARED / f"{name}.npz"
    if not path.exists():
        pytest.skip("needs the reference values with real labels, not part of the repository")
    assert_equals_reference(path)


def test_a_chain_by_hand():
    # labels    1    1    2    2    0    2
    # edges       .9   .3   .8   .5   .6
    affinities = np.array([[0, 0.9, 0.3, 0.8, 0.5, 0.6]], dtype=np.float32)
    labels = np.array([1, 1, 2, 2, 0, 2])
    positive, negative = pair_counts(affinities, labels, [(-1,)])
    assert positive.tolist() == [[0, 1, 0, 1, 0, 0]]
    # 0.6 first joins background and the last 2: no pair; 0.5 joins 2s to 2s: no different ones;
    # 0.3 joins two voxels of object 1 to three of object 2.
    assert negative.tolist() == [[0, 0, 6, 0, 0, 0]]
    positive, negative = pair_counts(affinities, labels, [(-1,)], constrained=False)
    assert positive.tolist() == [[0, 1, 0, 1, 2, 0]]
    assert negative.tolist() == [[0, 0, 6, 0, 0, 0]]


@st.composite
def volumes(draw):
    """Small graphs of every kind: any offsets, ties, split labels, background, masks."""
    ndim = draw(st.integers(1, 3))
    limit = {1: 16, 2: 5, 3: 3}[ndim]
    shape = tuple(draw(st.integers(1, limit)) for _ in range(ndim))
    step = st.tuples(*[st.integers(-3, 3)] * ndim).filter(any)
    offsets = draw(
        st.one_of(st.just(list(nearest_offsets(ndim))), st.lists(step, min_size=1, max_size=5))
    )
    levels = draw(st.sampled_from([1, 2, 5, 10_000]))
    grid = (len(offsets), *shape)
    affinities = draw(hnp.arrays(np.int64, grid, elements=st.integers(0, levels))) / levels
    labels = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, draw(st.integers(0, 4)))))
    masks = {}
    if draw(st.booleans()):
        masks["edge_mask"] = draw(hnp.arrays(np.uint8, grid, elements=st.integers(0, 1)))
    if draw(st.booleans()):
        masks["labelled_mask"] = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    return affinities.astype(np.float32), labels, np.array(offsets), masks


@settings(deadline=None)  # the first call compiles
@given(volumes(), st.booleans())
def test_counts_equal_brute_force(volume, constrained):
    affinities, labels, offsets, masks = volume
    found = pair_counts(affinities, labels, offsets, constrained=constrained, **masks)
    expected = count_pairs(affinities, labels, offsets, constrained=constrained, **masks)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_unconstrained_counts_are_all_pairs_of_voxels(fib25, make_affinities):
    offsets = nearest_offsets(3)
    affinities = make_affinities(affinities_from_labels(fib25, offsets))
    positive, negative = pair_counts(affinities, fib25, offsets, constrained=False)
    n_same, n_pairs = count_label_pairs(fib25)
    assert positive.sum() == n_same
    assert positive.sum() + negative.sum() == n_pairs
    n = np.count_nonzero(fib25)
    assert n_pairs == n * (n - 1) // 2


def test_constrained_counts_on_real_labels(fib25, make_affinities):
    offsets = nearest_offsets(3)
    truth = affinities_from_labels(fib25, offsets)
    positive, negative = pair_counts(make_affinities(truth), fib25, offsets)
    exists = existing_edges(fib25.shape, offsets)
    assert not positive[truth == 0].any()
    assert not negative[(truth == 1) | ~exists].any()
    n_same, n_pairs = count_label_pairs(fib25)
    assert negative.sum() == n_pairs - n_same  # the grid is connected
    pieces = [ndimage.label(fib25 == label)[0] for label in np.unique(fib25[fib25 > 0])]
    sizes = np.concatenate([np.bincount(piece.ravel())[1:] for piece in pieces])
    assert positive.sum() == (sizes * (sizes - 1) // 2).sum()


def test_a_mask_that_hides_nothing_changes_nothing(fib25, make_affinities):
    labels = fib25[:24, :24, :24]
    offsets = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0)]
    affinities = make_affinities(affinities_from_labels(labels, offsets))
    plain = pair_counts(affinities, labels, offsets)
    masked = pair_counts(
        affinities,
        labels,
        offsets,
        edge_mask=np.ones(affinities.shape),
        labelled_mask=np.ones(labels.shape),
    )
    np.testing.assert_array_equal(masked, plain)


def test_counts_above_32_bits_are_exact():
    # Two slabs of 2^18 voxels, joined by a single edge that is not 0.
    shape = (2, 512, 512)
    labels = np.ones(shape, dtype=np.uint64)
    labels[1] = 2
    affinities = np.full((3, *shape), 0.9, dtype=np.float32)
    affinities[0, 1] = 0.1
    affinities[0, 1, 7, 9] = 0.2
    positive, negative = pair_counts(affinities, labels, nearest_offsets(3))
    assert negative[0, 1, 7, 9] == 2**36
    assert negative.sum() == 2**36
    assert positive.sum() == 2 * (2**18 * (2**18 - 1) // 2)


def test_counts_of_2_to_the_46_pairs_are_exact_and_their_weights_finite():
    n_voxels = 2**24  # as many as 256^3, in a row of two objects
    affinities = np.full((1, n_voxels), 0.9, dtype=np.float32)
    affinities[0, n_voxels // 2] = 0.1
    labels = np.repeat(np.array([1, 2], dtype=np.uint8), n_voxels // 2)
    positive, negative = pair_counts(affinities, labels, [(-1,)])
    assert negative[0, n_voxels // 2] == negative.sum() == 2**46
    assert positive.sum() == 2 * (2**23 * (2**23 - 1) // 2)
    batch = torch.from_numpy(affinities)[None], torch.from_numpy(labels)[None]
    for weights in malis_weights(*batch, [(-1,)], normalise="none"):
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()


@pytest.mark.parametrize("backend", ["auto", "parallel"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_predictions_of_any_precision_and_layout(dtype, backend):
    generator = torch.Generator().manual_seed(0)
    affinities = torch.rand(2, 9, 8, 3, generator=generator).to(dtype).permute(0, 3, 2, 1)[:, :2]
    labels = torch.randint(0, 3, (2, 9, 8), generator=generator).transpose(1, 2)
    assert not affinities.is_contiguous()
    before = affinities.clone()
    positive, negative = pair_counts(affinities, labels, nearest_offsets(2), backend=backend)
    assert positive.dtype == negative.dtype == torch.int64
    assert positive.is_contiguous() and negative.is_contiguous()
    assert torch.equal(affinities, before)
    for sample in range(2):
        expected = pair_counts(
            affinities[sample].float().numpy(), labels[sample].numpy(), nearest_offsets(2)
        )
        np.testing.assert_array_equal(positive[sample], expected[0])
        np.testing.assert_array_equal(negative[sample], expected[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int64])
@pytest.mark.parametrize("masked", [False, True])
def test_labels_of_any_integer_type(dtype, masked):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (6, 7))
    affinities = rng.random((2, 6, 7), dtype=np.float32)
    masks = {"edge_mask": rng.random((2, 6, 7)) < 0.8} if masked else {}
    expected = pair_counts(affinities, labels, nearest_offsets(2), **masks)
    largest = np.iinfo(dtype).max
    shifted = np.where(labels == 0, 0, largest - labels.astype(object)).astype(dtype)
    for volume, values in ((shifted, affinities), map(torch.from_numpy, (shifted, affinities))):
        found = pair_counts(values, volume, nearest_offsets(2), **masks)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_arguments_are_left_alone():
    rng = np.random.default_rng(0)
    arguments = rng.random((2, 6, 7), dtype=np.float32), rng.integers(0, 4, (6, 7))
    masks = rng.random((2, 6, 7)) < 0.8, rng.random((6, 7)) < 0.8
    before = [array.copy() for array in (*arguments, *masks)]
    pair_counts(*arguments, nearest_offsets(2), edge_mask=masks[0], labelled_mask=masks[1])
    for array, copy in zip((*arguments, *masks), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("backend", ["auto", "parallel"])
def test_rounding_and_negative_zero_are_no_errors(backend):
    affinities = np.array([[0, -0.0, 1 + 1e-7, -1e-8]], dtype=np.float32)
    positive, _ = pair_counts(affinities, np.array([1, 1, 1, 1]), [(-1,)], backend=backend)
    assert positive.tolist() == [[0, 2, 1, 3]]  # 1, then the two zeros by position


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_rand_error_is_that_of_the_connected_components(threshold):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (6, 7))
    affinities = rng.random((2, 6, 7), dtype=np.float32)
    up, left = affinities >= threshold
    fine = np.zeros((12, 14), dtype=bool)  # voxels and edges on a grid of twice the size
    fine[::2, ::2] = True
    fine[1:-1:2, ::2], fine[::2, 1:-1:2] = up[1:], left[:, 1:]
    segments = ndimage.label(fine)[0][::2, ::2]
    own, truth = segments[labels > 0], labels[labels > 0]
    first, second = np.triu_indices(len(own), 1)
    wrong = (own[first] == own[second]) != (truth[first] == truth[second])
    found = rand_error(affinities, labels, nearest_offsets(2), threshold=threshold)
    assert found == pytest.approx(wrong.mean(), abs=0, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rand_error_compares_as_the_connected_components_do(dtype):
    affinities = np.array([[0, 0.8, 0.3, 0.5 - 1e-9]], dtype)
    labels = np.ones(4, int)
    for threshold in (0.3, 0.5, 0.8):
        parts = connected_components(affinities, [(-1,)], threshold)
        sizes = np.bincount(parts.astype(int))
        expected = 1 - (sizes * (sizes - 1) / 2).sum() / 6
        found = rand_error(affinities, labels, [(-1,)], threshold=threshold)
        tensors = torch.from_numpy(affinities), torch.from_numpy(labels)
        assert found == rand_error(*tensors, [(-1,)], threshold=threshold)
        assert found == pytest.approx(expected)


def test_rand_error_is_of_one_sample():
    with pytest.raises(ValueError, match=r"must have shape \(2, y, x\)"):
        rand_error(
            np.full((3, 2, 4, 4), 0.5, np.float32), np.ones((3, 4, 4), int), nearest_offsets(2)
        )


@pytest.mark.parametrize("backend", ["auto", "parallel"])
@pytest.mark.parametrize("outside", [np.nan, np.inf, 7, -1])
def test_edges_that_leave_the_volume_may_hold_anything(backend, outside):
    rng = np.random.default_rng(0)
    offsets = [(-1, 0), (0, 2), (3, -1)]
    affinities = rng.random((3, 6, 5)).astype(np.float32)
    labels = rng.integers(0, 4, (6, 5))
    wild = np.where(existing_edges((6, 5), offsets), affinities, np.float32(outside))
    for tensor in (False, True):
        given = torch.from_numpy(wild) if tensor else wild
        counts = pair_counts(given, labels, offsets, backend=backend)
        expected = pair_counts(affinities, labels, offsets, backend=backend)
        for one, other in zip(counts, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert np.isnan(wild).any() == np.isnan(outside)  # the argument is left alone


def zeros_of(shape):
    """Zeros with strides of 0, of which nothing is in memory."""
    return torch.zeros(()).expand(shape)


@pytest.mark.parametrize("shape", [(12, 646, 646, 646), (4, 3, 600, 600, 600)])
def test_too_large_for_the_parallel_form_is_for_higra(shape, monkeypatch):
    monkeypatch.setattr("malis._checks.has_numba", lambda: False)
    assert choose_backend("auto", zeros_of(shape), np.zeros((shape[-4], 3), int)) == "higra"
    fits = zeros_of((3, 128, 128, 128))
    assert choose_backend("auto", fits, np.zeros((3, 3), int)) == "parallel"


def test_auto_is_numba_where_it_is_installed_and_fits(monkeypatch):
    monkeypatch.setattr("malis._checks.has_numba", lambda: True)
    for *batch, channels, ndim, size in [(3, 3, 128), (64, 2, 2, 32), (2, 2, 5), (4, 3, 3, 600)]:
        affinities = zeros_of((*batch, channels, *(size,) * ndim))
        offsets = np.zeros((channels, ndim), int)
        assert choose_backend("auto", affinities, offsets, general=True) == "numba"


@pytest.mark.parametrize("shape", [(3, 1200, 1200, 1200), (1, 1291, 1291, 1291)])
def test_too_large_for_numba_is_for_higra(shape, monkeypatch):
    monkeypatch.setattr("malis._checks.has_numba", lambda: True)
    monkeypatch.setattr("malis._checks.extra_package", lambda name, extra: None)
    offsets = np.zeros((shape[0], 3), int)
    assert choose_backend("auto", zeros_of(shape), offsets) == "higra"
    with pytest.raises(ValueError, match=r"fewer than 2\^31 voxels and 2\^32 edges, got"):
        choose_backend("numba", zeros_of(shape), offsets)


def test_numba_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"needs numba, which the extra \[fast\] brings: pip"):
        pair_counts(*GOOD, nearest_offsets(2), backend="numba")


def test_rand_error_without_pairs_is_zero():
    assert rand_error(np.ones((1, 3), np.float32), np.array([0, 5, 0]), [(-1,)]) == 0


GOOD = np.full((2, 3, 4), 0.5, dtype=np.float32), np.ones((3, 4), dtype=np.int64)


@pytest.mark.parametrize(
    ("affinities", "labels", "error", "message"),
    [
        (np.where(GOOD[0] > 0, np.nan, 0).astype("f4"), GOOD[1], ValueError, "finite"),
        (np.full((2, 3, 4), np.inf, np.float32), GOOD[1], ValueError, "finite"),
        (GOOD[0] + 0.6, GOOD[1], ValueError, r"in \[0, 1\], got values in \[0, 1.1\]"),
        (GOOD[0] - 0.6, GOOD[1], ValueError, r"in \[0, 1\]"),
        (GOOD[0].astype(int), GOOD[1], TypeError, "affinities must be floating-point"),
        (torch.ones(2, 3, 4, dtype=torch.int32), GOOD[1], TypeError, "floating-point"),
        (GOOD[0], -GOOD[1], ValueError, "labels must not be negative, got -1"),
        (GOOD[0], GOOD[1].astype(float), TypeError, "labels must be integers, got float64"),
        (GOOD[0], GOOD[1] > 0, TypeError, "labels must be integers, got bool"),
        (GOOD[0], GOOD[1][:, :3], ValueError, r"shape \(3, 4\) like the affinities, got \(3, 3\)"),
        (GOOD[0][:1], GOOD[1], ValueError, "for 2 offsets in 2D"),
        (GOOD[0][0], GOOD[1], ValueError, "affinities must have shape"),
        (GOOD[0][:, :0], GOOD[1][:0], ValueError, "affinities are empty"),
    ],
)
def test_bad_input_is_named(affinities, labels, error, message):
    with pytest.raises(error, match=message):
        pair_counts(affinities, labels, nearest_offsets(2))


def test_bad_masks_and_choices_are_named():
    offsets = nearest_offsets(2)
    with pytest.raises(ValueError, match=r"edge_mask must have shape \(2, 3, 4\), got \(3, 4\)"):
        pair_counts(*GOOD, offsets, edge_mask=GOOD[1])
    with pytest.raises(ValueError, match=r"labelled_mask must have shape \(3, 4\)"):
        pair_counts(*GOOD, offsets, labelled_mask=GOOD[0])
    with pytest.raises(ValueError, match='"numba" or "parallel", got "gpu"'):
        pair_counts(*GOOD, offsets, backend="gpu")
    case = np.load(OWN / "3d_zero_offset.npz")
    with pytest.raises(ValueError, match="offset 0 is zero"):
        pair_counts(case["affs"], case["labels"], case["offsets"])
