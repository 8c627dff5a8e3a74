"""Triton's kernels beside PyTorch's operations, on one device: `test_kernels` runs this file.

    KERNEL_DEVICE=cuda python -m pytest tests/malis/kernel_cases.py
    TRITON_INTERPRET=1 KERNEL_DEVICE=cpu python -m pytest tests/malis/kernel_cases.py

Triton reads TRITON_INTERPRET when it is imported, hence a process of its own.
"""

import importlib.util
import inspect
import os
from dataclasses import fields
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.clock import Traffic
from malis import kernels, nearest_offsets, pair_counts
from malis.boruvka import FINISHED, Grid, grid_hierarchy
from malis.kernels import climbs, edges, groups
from malis.merges import kruskal_merges, weakest_links
from malis.parallel import parallel_maximin_edges
from malis.tensors import triton_kernels

FIXTURES = Path(__file__).parents[1] / "fixtures/malis"
CASES = sorted(path for path in FIXTURES.glob("*.npz") if path.stem != "3d_zero_offset")
DEVICE = torch.device(os.environ["KERNEL_DEVICE"])
FEW = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def in_both_forms(monkeypatch):
    """Runs a function with operations and with kernels; both results, in this order."""

    def run(function):
        results = []
        for switch in ("0", "1"):
            monkeypatch.setenv("MALIS_TRITON", switch)
            assert (triton_kernels(DEVICE) is kernels) == (switch == "1")
            results.append(function())
        return results

    return run


def assert_equal(one, other):
    """Compare tensors, numbers, and what holds them, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.device == other.device
        assert torch.equal(one, other)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif hasattr(one, "__dataclass_fields__"):
        for field in fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


def forest(affinities, offsets):
    """The hierarchy of a grid, Kruskal's merges, and the weakest links of all neighbours on it."""
    grid = Grid(torch.from_numpy(affinities).to(DEVICE), np.array(offsets))
    hierarchy = grid_hierarchy(grid, grid.edges_where(lambda *_: True))
    merges = kruskal_merges(hierarchy)
    ends = torch.arange(grid.n_voxels, device=DEVICE).split([grid.n_voxels - 1, 1])[0]
    links = [
        weakest_links(hierarchy, picks, ends, ends + 1)
        for picks in (hierarchy.key, merges.pick_ranks)
    ]
    return hierarchy, merges, links


def counts(affinities, labels, offsets, **options):
    affinities, labels = (torch.from_numpy(x).to(DEVICE) for x in (affinities, labels))
    return pair_counts(affinities, labels, np.array(offsets), backend="parallel", **options)


# Six voxels a ... f in a row, the example of malis.merges:
#
#   a ---.2--- b ---.9--- c ---.5--- d ---.8--- e ---.7--- f
A, B, C, D, E, F, ABC, DEF, ALL = range(9)


def test_six_voxels_step_by_step():
    codes = torch.tensor([[8, 1, 5, 2, 3, 0]], dtype=torch.int32, device=DEVICE)
    taken = torch.tensor([[True] * 5 + [False]], device=DEVICE)
    steps = torch.tensor([1], device=DEVICE)
    key = torch.full((12,), FINISHED, device=DEVICE)
    far, parent = (torch.full((12,), -1, dtype=torch.int32, device=DEVICE) for _ in range(2))
    component = torch.arange(6, dtype=torch.int32, device=DEVICE)

    kernels.pick_in_grid(codes, taken, steps, key)
    assert (key[:6] & 0xFFFFFFFF).tolist() == [0, 1, 1, 3, 3, 4]
    assert (key[:6] >> 32).tolist() == [8, 1, 1, 2, 2, 3]
    kernels.far_in_grid(key, component, far, steps, A, ABC)
    assert far.tolist() == [B, C, B, E, D, E] + [-1] * 6
    root, live = kernels.find_roots(key, far, A, ABC)
    assert root.tolist() == [B, B, B, D, D, D]
    assert live.tolist() == [False, True, False, True, False, False]
    kernels.number_parents(key, root, live.cumsum(0, dtype=torch.int32), parent, A, ABC)
    assert parent.tolist() == [ABC] * 3 + [DEF] * 3 + [-1] * 6

    component = parent[component]
    sources, targets, keys = kernels.surviving_in_grid(codes, taken, steps, component)
    assert (sources.tolist(), targets.tolist()) == ([ABC], [DEF])
    assert keys.tolist() == [5 << 32 | 2]
    kernels.pick_in_list(key, sources, targets, keys)
    assert key.tolist()[6:] == [5 << 32 | 2] * 2 + [FINISHED] * 4
    kernels.far_in_grid(key, component, far, steps, ABC, ALL)
    assert far.tolist()[6:] == [DEF, ABC] + [-1] * 4


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_counts_equal_the_reference_program(path, in_both_forms):
    case = np.load(path)
    names = {"edge_mask": "gt_aff_mask", "labelled_mask": "gt_seg_unlabelled"}
    masks = {
        option: torch.from_numpy(case[name]).to(DEVICE)
        for option, name in names.items()
        if name in case
    }
    arguments = case["affs"], case["labels"], case["offsets"]
    operations, ours = in_both_forms(lambda: counts(*arguments, **masks))
    assert_equal(operations, ours)
    np.testing.assert_array_equal(ours[0].cpu(), case["counts_pos"])
    np.testing.assert_array_equal(ours[1].cpu(), case["counts_neg"])


@st.composite
def graphs(draw):
    """Small grids of every kind: any offsets, many ties, pieces, background, masks."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, (40, 9, 5)[ndim - 1])) for _ in range(ndim))
    step = st.tuples(*[st.integers(-3, 3)] * ndim).filter(any)
    offsets = draw(
        st.one_of(st.just(list(nearest_offsets(ndim))), st.lists(step, min_size=1, max_size=5))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 10_000]))
    affinities = (rng.integers(0, levels + 1, (len(offsets), *shape)) / levels).astype(np.float32)
    labels = rng.integers(0, draw(st.integers(1, 5)), shape)
    options = {"constrained": draw(st.booleans())}
    if draw(st.booleans()):
        options["edge_mask"] = torch.from_numpy(rng.random(affinities.shape) < 0.7).to(DEVICE)
    return affinities, labels, offsets, options


@FEW
@given(graph=graphs())
def test_forests_and_counts_of_random_graphs(graph, in_both_forms):
    affinities, labels, offsets, options = graph
    assert_equal(*in_both_forms(lambda: forest(affinities, offsets)))
    assert_equal(*in_both_forms(lambda: counts(affinities, labels, offsets, **options)))


def ruler(n):
    """Affinities of a chain on which every round only joins neighbours: 1/2, 1/3, 1/2, 1/4 ..."""
    numbers = np.arange(n)
    return (1 / (2 + np.log2(numbers & -numbers, where=numbers > 0, out=numbers * 0.0)))[None]


CHAIN = np.arange(200)
SQUARE = np.indices((12, 13)).sum(0)
NOISE = np.random.default_rng(0).random((2, 12, 13))
CUBE = np.random.default_rng(1).integers(0, 4, (16, 16, 16))
ADVERSARIES = {
    "ascending chain": (CHAIN[None] / 200, CHAIN // 70),
    "descending chain": (1 - CHAIN[None] / 200, CHAIN % 7),
    "ruler": (ruler(200), CHAIN // 10 % 5),
    "checkerboard": (NOISE, SQUARE % 2 + 1),
    "checkerboard with background": (NOISE, SQUARE % 2),
    "constant": (np.full((2, 12, 13), 0.5), SQUARE // 5),
    "all 0": (np.zeros((2, 12, 13)), SQUARE // 5),
    "all 1": (np.ones((2, 12, 13)), SQUARE // 5),
    "every voxel an object": (NOISE, np.arange(156).reshape(12, 13) + 1),
    "one object": (NOISE, np.ones((12, 13), dtype=int)),
    "all background": (NOISE, np.zeros((12, 13), dtype=int)),
    "one voxel": (np.zeros((2, 1, 1)), np.ones((1, 1), dtype=int)),
    "one row": (NOISE[:, :1], SQUARE[:1] // 7),
    "several programs": (np.random.default_rng(2).random((3, 16, 16, 16)).round(2), CUBE),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_forests_and_counts_of_adversaries(name, in_both_forms):
    affinities, labels = ADVERSARIES[name]
    affinities, offsets = affinities.astype(np.float32), nearest_offsets(labels.ndim)
    assert_equal(*in_both_forms(lambda: forest(affinities, offsets)))
    for constrained in (True, False):
        assert_equal(
            *in_both_forms(lambda c=constrained: counts(affinities, labels, offsets, constrained=c))
        )


def test_maximin_edges_also_between_pieces(in_both_forms):
    affinities = torch.rand(2, 2, 6, 7, generator=torch.Generator().manual_seed(0)).round(
        decimals=1
    )
    pairs = torch.combinations(torch.arange(84), 2)[::7].to(DEVICE)
    found = in_both_forms(
        lambda: parallel_maximin_edges(affinities.to(DEVICE), np.array([[-1, 0], [0, 2]]), pairs)
    )
    assert_equal(*found)
    assert (found[0] == -1).any()
    assert (found[0] >= 0).any()


# One kernel beside operations that say the same; `module` is the real one or a mutant.


def check_keys_of_lists(module):
    for n_edges, n_ends in ((1, 2), (1023, 2), (1024, 700), (1025, 700), (3000, 2)):
        generator = torch.Generator().manual_seed(n_edges)
        sources = torch.randint(0, n_ends, (n_edges,), dtype=torch.int32, generator=generator)
        targets = (sources + 1) % n_ends
        codes = torch.randint(2**31 - 3, 2**31, (n_edges,), generator=generator)
        keys = codes << 32 | torch.randperm(n_edges, generator=generator)
        assert (keys >= 0).all()
        assert (keys < FINISHED).all()
        expected = torch.full((n_ends + 1,), FINISHED)
        for end in (sources, targets):
            expected.scatter_reduce_(0, end.long(), keys, "amin")
        key = torch.full((n_ends + 1,), FINISHED, device=DEVICE)
        module.pick_in_list(key, *(x.to(DEVICE) for x in (sources, targets, keys)))
        assert torch.equal(key.cpu(), expected)


def random_grid():
    """A grid of 1,430 voxels with ties, five channels of all directions, and some of its edges."""
    generator = torch.Generator().manual_seed(0)
    offsets = np.array([(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 2, -3), (1, 0, 0)])
    affinities = torch.rand(5, 10, 11, 13, generator=generator).round(decimals=1).to(DEVICE)
    grid = Grid(affinities, offsets)
    some = torch.rand(affinities.shape, generator=generator).to(DEVICE) < 0.8
    return grid, grid.edges_where(lambda *_: True) & some


def check_keys_of_grids(module):
    grid, taken = random_grid()
    sources, targets, keys = grid.list_edges(taken)
    expected = torch.full((2 * grid.n_voxels,), FINISHED, device=DEVICE)
    for end in (sources, targets):
        expected.scatter_reduce_(0, end.long(), keys, "amin")
    key = torch.full_like(expected, FINISHED)
    module.pick_in_grid(grid.codes, taken, grid.steps, key)
    assert torch.equal(key, expected)


def check_survivors(module):
    grid, taken = random_grid()
    generator = torch.Generator().manual_seed(1)
    component = torch.randint(0, 4, (grid.n_voxels,), dtype=torch.int32, generator=generator)
    component = component.to(DEVICE)
    *ends, keys = grid.list_edges(taken)
    expected = [component[end.long()] for end in ends]
    apart = expected[0] != expected[1]
    expected = [x[apart] for x in (*expected, keys)]
    found = module.surviving_in_grid(grid.codes, taken, grid.steps, component)
    assert_equal(list(found), expected)
    found = module.surviving_in_list(component, *ends, keys)
    assert_equal(list(found), expected)
    one_component = torch.zeros_like(component)
    found = module.surviving_in_list(one_component, *ends, keys)
    assert [len(x) for x in found] == [0, 0, 0]


def check_roots(module, lengths=(200,), first=5):
    for length, direction in product(lengths, (1, -1)):
        own = torch.arange(first, first + length, dtype=torch.int32)
        path = own if direction == 1 else own.flip(0)  # the last two have picked each other
        far = torch.full((first + length,), -7, dtype=torch.int32)
        far[path[:-1].long()] = path[1:]
        far[path[-1].long()] = path[-2:][0]
        key = torch.zeros(first + length, dtype=torch.int64)
        if length == 1:
            key[first] = FINISHED
        root, live = module.find_roots(key.to(DEVICE), far.to(DEVICE), first, first + length)
        expected = path[-2:].min()
        assert root.tolist() == [expected] * length
        assert live.tolist() == [length > 1 and x == expected for x in own]


def check_parents(module):
    key = torch.tensor([0, 0, 1, FINISHED, 1, FINISHED, 1], device=DEVICE)
    root = torch.tensor([2, 3, 2, 5, 2], dtype=torch.int32, device=DEVICE)
    numbers = torch.tensor([1, 1, 1, 1, 1], dtype=torch.int32, device=DEVICE)
    parent = torch.full((8,), -1, dtype=torch.int32, device=DEVICE)
    module.number_parents(key, root, numbers, parent, 2, 7)
    assert parent.tolist() == [-1, -1, 7, 3, 7, 5, 7, -1]


def check_far_ends(module):
    sources, targets = torch.tensor([[0, 1, 2], [1, 2, 3]], dtype=torch.int32, device=DEVICE)
    component = torch.tensor([4, 4, 5, 6], dtype=torch.int32, device=DEVICE)
    key = torch.tensor([0] * 4 + [7 << 32 | 1, 3 << 32 | 1, FINISHED], device=DEVICE)
    steps = torch.tensor([-1, 1], device=DEVICE)
    for number, find in (
        (1, lambda key, far: module.far_in_list(key, component, far, (sources, targets), 4, 7)),
        (2, lambda key, far: module.far_in_grid(key, component, far, steps, 4, 7)),
        (5, lambda key, far: module.far_in_grid(key, component, far, steps, 4, 7)),
    ):  # all of them join voxels 1 and 2
        far = torch.full((8,), -1, dtype=torch.int32, device=DEVICE)
        picked = torch.where(key == FINISHED, key, key - (key & 0xFFFFFFFF) + number)
        find(picked, far)
        assert far.tolist() == [-1] * 4 + [5, 4, 6, -1]


def check_climbs(module):
    noise = np.random.default_rng(0).random((1, 256))
    for values in (ruler(256), noise):  # the hierarchy of a ruler is as high as any
        grid = Grid(torch.from_numpy(values.astype(np.float32)).to(DEVICE), np.array([[-1]]))
        hierarchy = grid_hierarchy(grid, grid.edges_where(lambda *_: True))
        merges = kruskal_merges(hierarchy)
        order = merges.ranks.argsort()
        owners = merges.owners[order].long()
        chains = module.first_weaker(hierarchy.parent, merges.pick_ranks, owners)
        assert torch.equal(chains, merges.chains[order])
        ends = torch.randperm(256, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        ends = ends.view(2, -1)
        for picks in (merges.pick_ranks, hierarchy.key):
            links = module.weakest_links(hierarchy.parent, picks, *ends)
            assert torch.equal(links, weakest_links(hierarchy, picks, *ends))


CHECKS = [
    (check_keys_of_lists, edges),
    (check_keys_of_grids, edges),
    (check_survivors, edges),
    (check_roots, groups),
    (check_parents, groups),
    (check_far_ends, groups),
    (check_climbs, climbs),
]


@pytest.mark.parametrize(("check", "module"), CHECKS)
def test_a_kernel_equals_operations(check, module):
    check(module)


MUTANTS = {
    "ties to whichever edge comes first": (check_keys_of_lists, "own < best", "own>>32 < best>>32"),
    "ties to the later edge": (
        check_keys_of_grids,
        "strongest = tl.minimum(strongest, tl.minimum(owned, ending))",
        "new = tl.minimum(owned, ending); "
        "strongest = tl.where(new >> 32 <= strongest >> 32, new, strongest)",
    ),
    "half of the neighbours": (check_keys_of_grids, "tl.minimum(owned, ending)", "owned"),
    "neighbours across the end": (check_keys_of_grids, "first + before", "first + before + 1"),
    "half of the edges": (check_survivors, "one != other", "one < other"),
    "ends before melting": (
        check_survivors,
        "tl.load(parent + source, mask=inside, other=0)",
        "source",
    ),
    "the wrong root": (check_roots, "tl.minimum(here, there)", "tl.maximum(here, there)"),
    "one launch only": (check_roots, "reach < count", "reach < 0"),
    "parents one too high": (check_parents, "last - 1 + number", "last + number"),
    "the end itself": (check_far_ends, "one + other - own", "one"),
    "the last link only": (check_climbs, "tl.maximum(link, pick)", "pick"),
    "one round up": (check_climbs, "while tl.max(going.to(tl.int32), axis=0) > 0", "if 0 == 1"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name, tmp_path):
    check, old, new = MUTANTS[name]
    source = inspect.getsource(dict(CHECKS)[check])
    assert old in source
    path = tmp_path / "mutant.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("mutant", path)
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    with pytest.raises(AssertionError):
        check(mutant)


@pytest.mark.parametrize("hops", [2, 3])
def test_roots_at_the_end_of_paths_longer_than_a_launch(hops, monkeypatch):
    monkeypatch.setattr(groups, "HOPS", hops)
    check_roots(groups, lengths=(1, 2, 3, 4, 5, 8, 9, 10, 27, 28, 129))


def test_kernels_wait_for_the_device_less_often(in_both_forms):
    affinities, labels = (
        x.astype(t) for x, t in zip(ADVERSARIES["one object"], ("f4", "i8"), strict=True)
    )

    def traffic():
        with Traffic() as traffic:
            counts(affinities, labels, nearest_offsets(2), constrained=False)
        return traffic.waits, traffic.operations

    operations, ours = in_both_forms(traffic)
    assert ours[0] < 0.7 * operations[0]
    assert ours[1] < 0.7 * operations[1]


def test_runs_are_equal(monkeypatch):
    monkeypatch.setenv("MALIS_TRITON", "1")
    affinities = np.random.default_rng(0).random((3, 9, 10, 11), dtype=np.float32).round(1)
    first, *others = (forest(affinities, nearest_offsets(3)) for _ in range(3))
    for other in others:
        assert_equal(first, other)
