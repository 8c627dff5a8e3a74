from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from brute_force import bottlenecks, count_pairs, list_edges, rank_edges
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from malis import (
    MalisLoss,
    MaximinLoss,
    affinities_from_labels,
    maximin_edges,
    nearest_offsets,
    pair_counts,
)
from malis._checks import choose_backend
from malis.sampling import sample_pairs
from malis.tensor_backend import sample_batch
from malis.tensor_backend.boruvka import FINISHED, Grid, edge_numbers, grid_forest
from malis.tensor_backend.counts import parallel_maximin_edges, parallel_pair_counts
from malis.tensor_backend.merges import kruskal_merges, pair_products, vertex_line, weakest_links

OWN = Path(__file__).parents[2] / "fixtures/malis"
SHARED = Path(__file__).parents[3] / "../shared/fixtures/malis"
CASES = sorted(path for path in OWN.glob("*.npz") if path.stem != "3d_zero_offset")
REAL = ["24cube", "24cube_longrange", "24cube_bg_mask", "2d_96", "2d_96_bg"]
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, NEEDS_CUDA])


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return request.param


def count(affinities, labels, offsets, device="cpu", **options):
    """The counts of the parallel form as arrays, from tensors on a device."""
    options = {
        name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    affinities, labels = (torch.from_numpy(x).to(device) for x in (affinities, labels))
    counts = pair_counts(affinities, labels, offsets, backend="parallel", **options)
    assert all(found.device.type == device and found.dtype == torch.int64 for found in counts)
    return [found.cpu().numpy() for found in counts]


def assert_equals_higra(affinities, labels, offsets, device="cpu", **options):
    found = count(affinities, labels, offsets, device, **options)
    expected = pair_counts(affinities, labels, offsets, backend="higra", **options)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# The example of malis.tensor_backend.merges: six voxels a ... f in a row.
#
#   a ---.2--- b ---.9--- c ---.5--- d ---.8--- e ---.7--- f
AFFINITIES = torch.tensor([[0.2, 0.9, 0.5, 0.8, 0.7, 0.0]])
PLACE = [4, 0, 3, 1, 2]  # of the edges, in Kruskal's order
A, B, C, D, E, F, ABC, DEF, ALL = range(9)


def six_voxels():
    grid = Grid(AFFINITIES, np.array([[1]]))
    forest = grid_forest(grid, grid.edges_where(lambda *_: True))
    return forest, kruskal_merges(forest)


def test_the_rounds_of_six_voxels():
    forest, _ = six_voxels()
    assert forest.firsts == [A, ABC, ALL, ALL + 1]
    assert forest.parent.tolist() == [ABC] * 3 + [DEF] * 3 + [ALL] * 3
    assert forest.far.tolist() == [B, C, B, E, D, E, DEF, ABC, ALL]
    assert forest.key[ALL] == FINISHED
    picks = [PLACE[number] for number in edge_numbers(forest.key[:ALL])]
    assert picks == [4, 0, 0, 1, 1, 2, 3, 3]


def test_the_chains_of_six_voxels():
    forest, merges = six_voxels()
    places = [PLACE[number] for number in merges.numbers]
    assert places == merges.ranks.tolist() == [0, 1, 2, 3, 4]
    assert merges.chains.tolist() == [ABC, DEF, DEF, ALL, ALL]
    none = len(forest.parent)
    assert merges.owners.tolist() == [C, E, F, DEF, A]
    assert merges.mates.tolist() == [B, D, none, ABC, none]
    assert merges.bounds == [0, 3, 5]
    ones = torch.ones(6, dtype=torch.int32)
    assert pair_products(forest, merges, ones).tolist() == [1, 1, 2, 6, 5]


def test_the_leaf_line_and_a_weakest_link_of_six_voxels():
    forest, merges = six_voxels()
    assert vertex_line(forest, merges).tolist() == [E, D, F, C, B, A]
    pairs = torch.tensor([[A, E], [D, F], [B, F]])
    assert weakest_links(forest, merges.pick_ranks, *pairs.T).tolist() == [4, 2, 3]


def test_the_labels_of_six_voxels():
    labels = np.array([1, 2, 1, 1, 0, 2])
    offset = [[1]]
    found = count(AFFINITIES.numpy(), labels, offset, constrained=False)
    by_place = [counts[0, np.argsort(PLACE)].tolist() for counts in found]
    assert by_place == [[0, 0, 0, 2, 2], [1, 0, 1, 2, 2]]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_counts_equal_the_reference_program(path, device):
    assert_equals_reference(path, device)


@pytest.mark.parametrize("name", REAL)
def test_counts_equal_the_reference_program_on_real_labels(name, device):
    path = SHARED / f"fib25_{name}.npz"
    if not path.exists():
        pytest.skip("needs the reference values with real labels, not part of the repository")
    assert_equals_reference(path, device)


def assert_equals_reference(path, device):
    case = np.load(path)
    masks = {"edge_mask": case.get("gt_aff_mask"), "labelled_mask": case.get("gt_seg_unlabelled")}
    positive, negative = count(case["affs"], case["labels"], case["offsets"], device, **masks)
    np.testing.assert_array_equal(positive, case["counts_pos"])
    np.testing.assert_array_equal(negative, case["counts_neg"])
    effective = case["labels_effective" if "labels_effective" in case else "labels"]
    found = count(case["affs"], effective, case["offsets"], device, constrained=False)
    np.testing.assert_array_equal(found[0], case["uncon_counts_pos"])
    np.testing.assert_array_equal(found[1], case["uncon_counts_neg"])


@st.composite
def batches(draw, limits=(16, 5, 3), n_samples=1):
    """Small graphs of every kind: any offsets, ties, split labels, background, masks."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, limits[ndim - 1])) for _ in range(ndim))
    step = st.tuples(*[st.integers(-3, 3)] * ndim).filter(any)
    offsets = draw(
        st.one_of(st.just(list(nearest_offsets(ndim))), st.lists(step, min_size=1, max_size=5))
    )
    samples = draw(st.integers(1, n_samples))
    grid = (samples, len(offsets), *shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 10_000]))
    affinities = (rng.integers(0, levels + 1, grid) / levels).astype(np.float32)
    labels = rng.integers(0, draw(st.integers(1, 5)), (samples, *shape))
    options = {"constrained": draw(st.booleans())}
    if draw(st.booleans()):
        options["edge_mask"] = rng.random(grid) < draw(st.sampled_from([0.3, 0.8]))
    if draw(st.booleans()):
        options["labelled_mask"] = rng.random(labels.shape) < draw(st.sampled_from([0.3, 0.8]))
    return affinities, labels, np.array(offsets), options


@settings(deadline=None)
@given(batches())
def test_counts_equal_brute_force(batch):
    affinities, labels, offsets, options = batch
    options = {
        name: value[0] if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    found = count(affinities[0], labels[0], offsets, **options)
    expected = count_pairs(affinities[0], labels[0], offsets, **options)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@settings(deadline=None)
@given(batches(limits=(60, 14, 7), n_samples=3))
def test_counts_equal_higra_on_batches_of_larger_graphs(batch):
    affinities, labels, offsets, options = batch
    assert_equals_higra(affinities, labels, offsets, **options)


@pytest.mark.parametrize(
    "offsets",
    [nearest_offsets(3), [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (-4, 0, 0), (0, 5, 5), (1, 0, 0)]],
)
def test_counts_equal_higra_on_real_labels(fib25, make_affinities, offsets, device):
    affinities = make_affinities(affinities_from_labels(fib25, offsets))
    rng = np.random.default_rng(0)
    known = rng.random(affinities.shape) < 0.9
    labelled = np.ones(fib25.shape, dtype=bool)
    labelled[:20, 10:30] = False
    assert_equals_higra(affinities, fib25, offsets, device)
    assert_equals_higra(affinities, fib25, offsets, device, constrained=False)
    assert_equals_higra(affinities, fib25, offsets, device, edge_mask=known, labelled_mask=labelled)


def test_counts_equal_higra_with_background_and_ties(fib25, make_affinities, device):
    offsets = nearest_offsets(3)
    affinities = make_affinities(affinities_from_labels(fib25, offsets))
    labels = np.where(affinities.mean(0) < 0.4, 0, fib25)
    affinities = np.round(16 * affinities).astype(np.float32) / 16
    for constrained in (True, False):
        assert_equals_higra(affinities, labels, offsets, device, constrained=constrained)


def ruler(n):
    """Affinities of a chain on which every round only joins neighbours: 1/2, 1/3, 1/2, 1/4 ..."""
    numbers = np.arange(n)
    return (1 / (2 + np.log2(numbers & -numbers, where=numbers > 0, out=numbers * 0.0)))[None]


CHAIN = np.arange(5000)
SQUARE = np.indices((50, 60)).sum(0)
NOISE = np.random.default_rng(0).random((2, 50, 60))
ADVERSARIES = {
    "ascending chain": (CHAIN[None] / 5000, CHAIN // 700),
    "descending chain": (1 - CHAIN[None] / 5000, CHAIN % 7),
    "ruler": (ruler(4096), CHAIN[:4096] // 100 % 5),
    "ruler of two labels": (ruler(4096), CHAIN[:4096] % 2 + 1),
    "checkerboard": (NOISE, SQUARE % 2 + 1),
    "checkerboard with background": (NOISE, SQUARE % 2),
    "constant": (np.full((2, 50, 60), 0.5), SQUARE // 20),
    "all 0": (np.zeros((2, 50, 60)), SQUARE // 20),
    "all 1": (np.ones((2, 50, 60)), SQUARE // 20),
    "every voxel an object": (NOISE, np.arange(3000).reshape(50, 60) + 1),
    "one object": (NOISE, np.ones((50, 60), dtype=int)),
    "all background": (NOISE, np.zeros((50, 60), dtype=int)),
    "stripes": (NOISE, np.indices((50, 60))[0] + 1),
    "one voxel": (np.zeros((2, 1, 1)), np.ones((1, 1), dtype=int)),
    "one background voxel": (np.zeros((2, 1, 1)), np.zeros((1, 1), dtype=int)),
    "one row": (NOISE[:, :1], SQUARE[:1] // 7),
}


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_counts_equal_higra_on_adversaries(name, constrained, device):
    affinities, labels = ADVERSARIES[name]
    affinities, offsets = affinities.astype(np.float32), nearest_offsets(labels.ndim)
    assert_equals_higra(affinities, labels, offsets, device, constrained=constrained)
    known = np.random.default_rng(1).random(affinities.shape) < 0.8
    options = {"constrained": constrained, "edge_mask": known}
    assert_equals_higra(affinities, labels, offsets, device, **options)


def test_a_ruler_takes_log_n_rounds_and_a_ramp_one():
    offsets = np.array([[-1]])
    for affinities, n_rounds in ((ruler(4096), 12), (CHAIN[None] / 5000, 1)):
        grid = Grid(torch.from_numpy(affinities.astype(np.float32)), offsets)
        forest = grid_forest(grid, grid.edges_where(lambda *_: True))
        assert len(forest.firsts) - 2 == n_rounds


def test_sums_are_all_pairs_of_a_connected_graph(device):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (9, 10, 11))
    affinities = rng.random((3, 9, 10, 11), dtype=np.float32)
    sizes = np.bincount(labels.ravel())[1:]
    n_same = (sizes * (sizes - 1) // 2).sum()
    n_pairs = sizes.sum() * (sizes.sum() - 1) // 2
    positive, negative = count(affinities, labels, nearest_offsets(3), device, constrained=False)
    assert positive.sum() == n_same
    assert negative.sum() == n_pairs - n_same
    _, negative = count(affinities, labels, nearest_offsets(3), device)
    assert negative.sum() == n_pairs - n_same


def test_a_batch_is_its_samples(device):
    rng = np.random.default_rng(0)
    affinities = rng.random((4, 3, 7, 8, 9), dtype=np.float32).round(1)
    labels = rng.integers(0, 4, (4, 7, 8, 9))
    known = rng.random(affinities.shape) < 0.8
    offsets = [(-1, 0, 0), (0, 2, -1), (0, 0, -1)]
    for options in ({}, {"constrained": False}, {"edge_mask": known}):
        together = count(affinities, labels, offsets, device, **options)
        for sample in range(4):
            own = {
                name: value[sample] if name == "edge_mask" else value
                for name, value in options.items()
            }
            alone = count(affinities[sample], labels[sample], offsets, device, **own)
            np.testing.assert_array_equal([counts[sample] for counts in together], alone)


def test_counts_above_32_bits_are_exact(device):
    shape = (2, 512, 512)  # two slabs of 2^18 voxels, joined by a single edge that is not 0
    labels = np.ones(shape, dtype=np.uint64)
    labels[1] = 2
    affinities = np.full((3, *shape), 0.9, dtype=np.float32)
    affinities[0, 1] = 0.1
    affinities[0, 1, 7, 9] = 0.2
    positive, negative = count(affinities, labels, nearest_offsets(3), device)
    assert negative[0, 1, 7, 9] == negative.sum() == 2**36
    assert positive.sum() == 2 * (2**18 * (2**18 - 1) // 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int64])
@pytest.mark.parametrize("masked", [False, True])
def test_labels_of_any_integer_type(dtype, masked, device):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (6, 7))
    affinities = rng.random((2, 6, 7), dtype=np.float32)
    options = {"labelled_mask": rng.random((6, 7)) < 0.8} if masked else {}
    expected = pair_counts(affinities, labels, nearest_offsets(2), **options)
    largest = np.iinfo(dtype).max
    labels = np.where(labels == 0, 0, largest - labels.astype(object)).astype(dtype)
    found = count(affinities, labels, nearest_offsets(2), device, **options)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_largest_ids_differ_from_the_unlabelled_object(device):
    labels = np.array([2**64 - 1, 2**64 - 1, 2**63 - 1, 0, 5], dtype=np.uint64)
    affinities = np.array([[0, 0.5, 0.4, 0.3, 0.2]], dtype=np.float32)
    labelled = np.array([True, True, True, True, False])
    _, negative = count(affinities, labels, [(-1,)], device, labelled_mask=labelled)
    assert negative.tolist() == [[0, 0, 2, 0, 3]]


def test_one_section_that_is_reversed():
    """NumPy takes any stride along an axis of length 1 for contiguous, torch does not."""
    affinities = np.random.default_rng(0).random((3, 1, 4, 5), dtype=np.float32)
    labels = np.arange(20).reshape(1, 4, 5) // 7
    offsets = nearest_offsets(3)
    expected = pair_counts(affinities, labels, offsets)
    found = pair_counts(affinities[:, ::-1], labels[::-1], offsets, backend="parallel")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("volume", ["read-only", "big-endian", "strided", "Fortran"])
def test_arrays_of_any_layout_are_answered_with_arrays(volume):
    rng = np.random.default_rng(0)
    affinities = rng.random((2, 6, 7), dtype=np.float32)
    labels = rng.integers(0, 4, (6, 7))
    expected = pair_counts(affinities, labels, nearest_offsets(2))
    layouts = {
        "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
        "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
        "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2][..., ::-1][..., ::-1],
        "Fortran": np.asfortranarray,
    }
    arguments = layouts[volume](affinities), layouts[volume](labels)
    found = pair_counts(*arguments, nearest_offsets(2), backend="parallel")
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, np.ndarray)
        np.testing.assert_array_equal(ours, theirs)


def test_runs_are_equal(fib25, make_affinities, device):
    offsets = nearest_offsets(3)
    labels = fib25[:32]
    affinities = make_affinities(affinities_from_labels(labels, offsets)).round(2)
    for constrained in (True, False):
        first, *others = (
            count(affinities, labels, offsets, device, constrained=constrained) for _ in range(3)
        )
        for other in others:
            np.testing.assert_array_equal(other, first)


@settings(deadline=None)
@given(batches())
def test_maximin_edges_equal_floyd_warshall(batch):
    affinities, _, offsets, _ = batch
    shape = affinities.shape[2:]
    edges = list_edges(shape, offsets)
    ranks = rank_edges([-float(affinities[(0, c, *voxel)]) for c, voxel, _ in edges])
    expected = bottlenecks(shape, edges, ranks)
    pairs = np.argwhere(~np.eye(len(expected), dtype=bool))
    found = maximin_edges(affinities[0], offsets, pairs, backend="parallel")
    for (u, v), row in zip(pairs, found, strict=True):
        edge = expected[u, v]
        assert tuple(row) == ((edges[edge][0], *edges[edge][1]) if edge >= 0 else (-1,) * len(row))


def test_maximin_edges_equal_higra_on_real_labels(fib25, make_affinities, device):
    offsets = nearest_offsets(3)
    affinities = make_affinities(affinities_from_labels(fib25, offsets)).round(2)
    pairs = np.random.default_rng(0).integers(fib25.size, size=(2000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    expected = maximin_edges(affinities, offsets, pairs, backend="higra")
    values = torch.from_numpy(affinities).to(device)
    found = maximin_edges(values, offsets, torch.from_numpy(pairs), backend="parallel")
    assert found.device.type == device
    np.testing.assert_array_equal(found.cpu(), expected)


LABELS = torch.tensor([[[3, 3, 0, 7], [3, -9, 0, 7]], [[0] * 4] * 2, [[5, 5, 5, 0], [0, 0, 0, 6]]])


@pytest.mark.parametrize("balanced", [True, False])
def test_pairs_of_a_batch_are_drawn_like_those_of_its_volumes(balanced, device):
    labels, n_pairs = LABELS.to(device), 40_000
    generator = torch.Generator(device).manual_seed(0)
    pairs, same = (
        x.cpu().numpy() for x in sample_batch(labels, n_pairs, generator, balanced=balanced)
    )
    assert pairs.shape == (2 * n_pairs, 2)  # the second volume has none
    flat = LABELS.flatten().numpy()
    np.testing.assert_array_equal(flat[pairs[:, 0]] == flat[pairs[:, 1]], same)
    for sample, own in ((0, slice(n_pairs)), (2, slice(n_pairs, None))):
        ids = LABELS[sample].numpy()
        rng = np.random.default_rng(0)
        expected, _ = sample_pairs(ids, n_pairs, rng, balanced=balanced)
        drawn, shares = (
            np.unique(np.sort(x, axis=1), axis=0, return_counts=True)
            for x in (pairs[own] - sample * ids.size, expected)
        )
        np.testing.assert_array_equal(drawn[0], shares[0])
        # 5 standard deviations of the difference of two binomial counts
        assert (np.abs(drawn[1] - shares[1]) < 5 * np.sqrt(2 * shares[1])).all()


@pytest.mark.parametrize(
    ("labels", "n_same"), [([5, 5, 5, 0], 10), ([1, 2, 3, 4], 0), ([1, 1, 2, 0], 5)]
)
def test_where_one_kind_is_missing_all_are_of_the_other(labels, n_same, device):
    generator = torch.Generator(device).manual_seed(0)
    pairs, same = sample_batch(torch.tensor([labels], device=device), 10, generator)
    assert len(pairs) == 10
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert same.sum() == n_same


def random_batch(device="cpu", dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    values = (torch.randperm(120, generator=generator) + 0.5) / 120
    affinities = (0.05 + 0.9 * values).reshape(2, 2, 6, 5).to(device, dtype)
    labels = torch.randint(0, 4, (2, 6, 5), generator=generator).to(device)
    return affinities.requires_grad_(), labels


def test_the_malis_loss_and_its_gradient_are_those_of_higra(device):
    results = []
    for backend in ("parallel", "higra"):
        affinities, labels = random_batch(device)
        loss = MalisLoss(nearest_offsets(2), backend=backend)(affinities, labels)
        loss.backward()
        results.append((loss.detach(), affinities.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_the_maximin_loss_is_the_mean_over_its_pairs(device):
    # a chain and, in the second sample, two pieces
    affinities = torch.tensor([[[0, 0.9, 0.2]], [[0, 0.7, 0]]], device=device)
    labels = torch.tensor([[1, 1, 2], [1, 1, 0]], device=device)
    options = {"n_pairs": 10, "edge_loss": "squared", "backend": "parallel"}
    loss = MaximinLoss([(-1,)], **options)(affinities, labels)
    # 5 times 0.9 and 5 times 0.2 for the first sample, 10 times 0.7 for the second
    assert loss.item() == pytest.approx((5 * 0.1**2 + 5 * 0.2**2 + 10 * 0.3**2) / 20)


def test_the_gradient_of_the_maximin_loss_is_exact():
    affinities, labels = random_batch()

    def same_pairs_each_time(affinities, labels):
        generator = torch.Generator().manual_seed(0)
        options = {"n_pairs": 50, "edge_loss": "squared", "generator": generator}
        return MaximinLoss(nearest_offsets(2), backend="parallel", **options)(affinities, labels)

    assert torch.autograd.gradcheck(same_pairs_each_time, (affinities, labels), eps=1e-4, atol=1e-3)


def test_the_maximin_loss_falls_on_maximin_edges_and_repeats(device):
    gradients = []
    for _ in range(2):
        affinities, labels = random_batch(device)
        generator = torch.Generator().manual_seed(3)
        loss = MaximinLoss(nearest_offsets(2), n_pairs=5, generator=generator, backend="parallel")
        loss(affinities, labels).backward()
        gradients.append(affinities.grad)
    assert torch.equal(*gradients)
    pairs = np.argwhere(np.triu(np.ones((30, 30)), 1))
    for sample, gradient in zip(affinities, gradients[0], strict=True):
        edges = maximin_edges(sample.detach(), nearest_offsets(2), torch.from_numpy(pairs))
        possible = torch.zeros_like(gradient, dtype=torch.bool)
        possible[tuple(edges.T)] = True
        assert 0 < (gradient != 0).sum() <= 5
        assert possible[gradient != 0].all()


@pytest.mark.parametrize("loss", [MalisLoss, MaximinLoss])
def test_patches_without_pairs_cost_nothing(loss, device):
    affinities, labels = random_batch(device)
    value = loss(nearest_offsets(2), backend="parallel")(affinities, torch.zeros_like(labels))
    value.backward()
    assert value.item() == 0
    assert (affinities.grad == 0).all()


def test_a_batch_with_too_many_edges_is_refused():
    values = torch.zeros(1).expand(1, 1, 2**29)  # a view of one number
    with pytest.raises(ValueError, match="fewer than 2\\^29 voxels"):
        Grid(values, np.array([[0, 1]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_under_autocast(dtype, device):
    for make in (MalisLoss, MaximinLoss):
        affinities, labels = random_batch(device, dtype)
        with torch.autocast(device, dtype=torch.bfloat16):
            value = make(nearest_offsets(2), backend="parallel")(affinities, labels)
        assert value.dtype == torch.float32
        value.backward()
        assert affinities.grad.dtype == dtype
        assert affinities.grad.isfinite().all()


@pytest.mark.parametrize("make", [MalisLoss, MaximinLoss])
def test_auto_is_parallel_for_large_samples_without_numba(make, monkeypatch):
    monkeypatch.setattr("malis._checks.has_numba", lambda: False)
    affinities, labels = random_batch()
    counts = Mock(wraps=parallel_pair_counts)
    edges = Mock(wraps=parallel_maximin_edges)
    monkeypatch.setattr("malis.tensor_backend.parallel_pair_counts", counts)
    monkeypatch.setattr("malis.tensor_backend.parallel_maximin_edges", edges)
    make(nearest_offsets(2))(affinities, labels)
    assert not (counts.called or edges.called)
    monkeypatch.setattr("malis._checks.PARALLEL_ON_CPU", range(30, 31))  # voxels of a sample
    make(nearest_offsets(2))(affinities, labels)
    assert counts.called or edges.called


class NoVolumeToTheHost(TorchDispatchMode):
    """Refuses operations that turn a tensor on a GPU into a long one on the host."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result.is_cuda and result.numel() > 100:
            assert not any(isinstance(x, torch.Tensor) and x.is_cuda for x in args), operation
        return result


def test_auto_is_parallel_for_many_small_samples_without_numba(monkeypatch):
    monkeypatch.setattr("malis._checks.has_numba", lambda: False)
    offsets = np.array([(-1, 0), (0, -1)])
    for shape, expected in (
        ((64, 2, 32, 32), "parallel"),
        ((8, 2, 32, 32), "higra"),
        ((64, 2, 64, 64), "higra"),
        ((2, 32, 32), "higra"),
    ):
        assert choose_backend("auto", np.zeros(shape, np.float32), offsets) == expected
    assert choose_backend("auto", np.zeros((64, 2, 32, 32)), offsets, general=True) == "higra"


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize("make", [MalisLoss, MaximinLoss])
def test_auto_stays_on_the_gpu(make):
    generator = torch.Generator().manual_seed(0)
    affinities = torch.rand(2, 3, 20, 20, 20, generator=generator).cuda().requires_grad_()
    labels = torch.randint(0, 5, (2, 20, 20, 20), generator=generator).cuda()
    with NoVolumeToTheHost():
        value = make(nearest_offsets(3))(affinities, labels)
        value.backward()
    assert value.is_cuda
    assert affinities.grad.is_cuda


@pytest.mark.cuda
@NEEDS_CUDA
def test_labels_may_lie_on_the_host():
    affinities, labels = random_batch("cuda")
    expected = pair_counts(affinities, labels, nearest_offsets(2))
    found = pair_counts(affinities, labels.cpu(), nearest_offsets(2))
    assert all(map(torch.equal, found, expected))


@pytest.mark.cuda
@NEEDS_CUDA
def test_a_graph_too_large_for_the_memory_leaves_the_gpu_usable():
    affinities, labels = random_batch("cuda")
    expected = pair_counts(affinities, labels, nearest_offsets(2))
    large = torch.rand(1, 3, 256, 256, 256, device="cuda"), torch.ones(1, 256, 256, 256, dtype=int)
    torch.cuda.empty_cache()
    taken = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.1 * taken)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            pair_counts(*large, nearest_offsets(3))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    del large
    found = pair_counts(affinities, labels, nearest_offsets(2))
    assert all(map(torch.equal, found, expected))
