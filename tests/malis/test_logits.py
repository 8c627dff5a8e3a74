"""Losses of logits: their order, their gradients, and what half precision does to affinities."""

import warnings

import numpy as np
import pytest
import torch
from brute_force import count_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from loss_batch import OFFSETS, batch

from malis import (
    AffinityCrossEntropy,
    GrowBoundaryLoss,
    MalisLoss,
    MaximinLoss,
    SumLoss,
    WindowLoss,
    malis_weights,
    maximin_edges,
    nearest_offsets,
    pair_counts,
)
from malis._checks import BACKENDS
from malis.edge_loss import warn_of_half_precision

ROW = [(-1,)]
EXTREMES = [sign * one for one in (2.0**-149, 2.0**126, 17.0) for sign in (1, -1)]
EDGE_LOSSES = ["squared", "squared_hinge", "cross_entropy"]


@pytest.fixture(scope="module", params=[backend for backend in BACKENDS if backend != "auto"])
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return request.param


@st.composite
def predictions(draw):
    """Logits of every sign and size, labels and masks, on small graphs."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(
        draw(st.integers(1, limit)) for limit in {1: (14,), 2: (5, 4), 3: (3, 2, 3)}[ndim]
    )
    offsets = np.array([*nearest_offsets(ndim), *draw(st.sampled_from([[], [(2,) * ndim]]))])
    numbers = st.one_of(
        st.integers(-2, 2).map(float),
        st.floats(-1000, 1000, width=32),
        st.sampled_from([0.0, -0.0, 16.0, *EXTREMES]),
    )
    logits = draw(hnp.arrays(np.float32, (len(offsets), *shape), elements=numbers))
    labels = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 3)))
    masks = {}
    if draw(st.booleans()):
        masks["edge_mask"] = draw(hnp.arrays(bool, logits.shape))
    if draw(st.booleans()):
        masks["labelled_mask"] = draw(hnp.arrays(bool, shape))
    return logits, labels, offsets, masks


@settings(deadline=None)  # the first call compiles
@given(predictions(), st.booleans(), st.booleans())
def test_counts_of_logits_equal_brute_force(backend, prediction, constrained, tensors):
    logits, labels, offsets, masks = prediction
    expected = count_pairs(logits, labels, offsets, constrained=constrained, **masks)
    arguments = (torch.from_numpy(x.copy()) if tensors else x for x in (logits, labels))
    options = {"constrained": constrained, "from_logits": True, "backend": backend}
    found = pair_counts(*arguments, offsets, **masks, **options)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)


def test_late_negative_logits_by_hand(backend):
    # labels    1    1    2    2    2
    # logits      -9   40   -3   -2        in float32 the sigmoid of 40 is 1, of -104 it is 0
    logits = np.array([[0, -9, 40, -3, -2]], np.float32)
    labels = np.array([1, 1, 2, 2, 2])
    positive, negative = pair_counts(logits, labels, ROW, from_logits=True, backend=backend)
    assert positive.tolist() == [[0, 1, 0, 2, 1]]
    assert negative.tolist() == [[0, 0, 6, 0, 0]]  # the strongest edge, and yet the last
    options = {"from_logits": True, "constrained": False, "backend": backend}
    positive, negative = pair_counts(logits, labels, ROW, **options)
    assert positive.tolist() == [[0, 1, 0, 2, 1]]
    assert negative.tolist() == [[0, 2 + 1 + 1 - 1, 1, 2, 0]]


def test_where_the_sigmoid_saturates_the_logits_order_the_edges(backend):
    logits = torch.tensor([[0.0, 60, 20, 30], [0.0, -200, -120, -150]])
    assert logits[0, 1:].sigmoid().unique().numel() == logits[1, 1:].sigmoid().unique().numel() == 1
    pairs = torch.tensor([[0, 3]])
    weakest = [
        maximin_edges(row[None], ROW, pairs, from_logits=True, backend=backend) for row in logits
    ]
    assert [edge.tolist() for edge in weakest] == [[[0, 2]], [[0, 1]]]


def test_where_the_sigmoid_keeps_logits_apart_nothing_changes(backend):
    affinities, labels = batch(seed=1, shape=(3, 16, 15))
    logits = affinities.detach().logit().requires_grad_()
    mask = torch.rand(affinities.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    for masks in ({}, {"edge_mask": mask}):
        options = {"backend": backend, **masks}
        counts = pair_counts(affinities.detach(), labels, OFFSETS, **options)
        found = pair_counts(logits.detach(), labels, OFFSETS, from_logits=True, **options)
        assert all(map(torch.equal, counts, found))
        weights = malis_weights(logits, labels, OFFSETS, from_logits=True, **options)
        assert all(map(torch.equal, weights, malis_weights(affinities, labels, OFFSETS, **options)))
    makers = [(AffinityCrossEntropy, {})]
    for edge_loss in EDGE_LOSSES:
        options = {"edge_loss": edge_loss, "backend": backend, "margin": 0.1}
        makers += [(MalisLoss, options), (MaximinLoss, options)]
    for make, options in makers:
        results = []
        for from_logits in (False, True):
            loss = make(OFFSETS, from_logits=from_logits, **options)
            torch.manual_seed(7)  # the same pairs for both
            value = loss(logits if from_logits else logits.sigmoid(), labels)
            results.append((value, *torch.autograd.grad(value, logits)))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("edge_loss", EDGE_LOSSES)
@pytest.mark.parametrize("constrained", [True, False])
def test_the_gradient_of_logits_is_exact(edge_loss, constrained):
    affinities, labels = batch()
    logits = affinities.detach().logit().requires_grad_()  # from -2.9 to 2.9, all different
    loss = MalisLoss(OFFSETS, edge_loss=edge_loss, constrained=constrained, from_logits=True)
    assert torch.autograd.gradcheck(loss, (logits, labels))

    def same_pairs_each_time(logits, labels):
        options = {"generator": torch.Generator().manual_seed(0), "n_pairs": 50}
        loss = MaximinLoss(OFFSETS, edge_loss=edge_loss, from_logits=True, **options)
        return loss(logits, labels)

    assert torch.autograd.gradcheck(same_pairs_each_time, (logits, labels))


def test_the_gradient_of_cross_entropy_of_logits_is_exact():
    affinities, labels = batch()
    logits = (20 * affinities.detach() - 10).requires_grad_()
    mask = torch.ones(affinities.shape)
    mask[:, 0, 2:4] = 0
    loss = AffinityCrossEntropy(OFFSETS, from_logits=True)
    assert torch.autograd.gradcheck(loss, (logits, labels))
    assert torch.autograd.gradcheck(lambda *given: loss(*given, mask), (logits, labels))


@pytest.mark.parametrize("wrong", [17.0, 50.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_wrong_logit_has_a_gradient_of_1(wrong, dtype):
    for make, options in (
        (AffinityCrossEntropy, {}),
        (MalisLoss, {"edge_loss": "cross_entropy"}),
        (MaximinLoss, {"edge_loss": "cross_entropy", "n_pairs": 8}),
    ):
        for labels, sign in ((torch.tensor([[1, 1]]), -1), (torch.tensor([[1, 2]]), 1)):
            logits = torch.tensor([[[0, sign * wrong]]], dtype=dtype, requires_grad=True)
            value = make(ROW, from_logits=True, **options)(logits, labels)
            value.backward()
            assert value == wrong
            assert logits.grad[0, 0, 0] == 0
            assert logits.grad[0, 0, 1].item() == pytest.approx(sign, rel=1e-6)


def test_logits_may_be_any_finite_numbers_and_nothing_else():
    _, labels = batch()
    large = torch.full((2, 2, 6, 5), -1e30)
    for make in (MalisLoss, MaximinLoss, AffinityCrossEntropy):
        loss = make(OFFSETS, from_logits=True)
        assert loss(large, labels).isfinite()
        for value in (torch.nan, torch.inf, -torch.inf):
            with pytest.raises(ValueError, match="logits must be finite, got NaN or infinity"):
                loss(large.masked_fill(labels[:, None] > 1, value), labels)
            outside = large.clone()
            outside[:, 0, 0] = value
            assert loss(outside, labels).isfinite()
        with pytest.raises(ValueError, match=r"affinities must lie in \[0, 1\].*from_logits=True"):
            make(OFFSETS)(large, labels)


class OwnLoss(torch.nn.Module):
    def forward(self, affinities, labels):
        return affinities.mean()


def test_all_losses_of_a_sum_take_the_same():
    entropy = AffinityCrossEntropy(OFFSETS, from_logits=True)
    malis_loss = MalisLoss(OFFSETS, from_logits=True)
    assert SumLoss([WindowLoss(malis_loss, 4), GrowBoundaryLoss(malis_loss), entropy]).from_logits
    assert not SumLoss([OwnLoss(), WindowLoss(MalisLoss(OFFSETS), 4)]).from_logits
    assert WindowLoss(SumLoss([malis_loss]), 4).from_logits
    for other, name in (
        (WindowLoss(MalisLoss(OFFSETS), 4), "WindowLoss"),
        (OwnLoss(), "OwnLoss"),
        (SumLoss([AffinityCrossEntropy(OFFSETS)]), "SumLoss"),
    ):
        with pytest.raises(ValueError, match=f"AffinityCrossEntropy: logits, {name}: affinities"):
            SumLoss([entropy, other])


def test_sums_of_windows_and_margins_of_logits():
    affinities, labels = batch(shape=(2, 8, 8))
    logits = affinities.detach().logit()

    def build(**options):
        around = GrowBoundaryLoss(WindowLoss(MalisLoss(OFFSETS, **options), 4))
        return SumLoss([around, AffinityCrossEntropy(OFFSETS, **options)], [0.3, 1])

    value = build(from_logits=True)(logits, labels)
    torch.testing.assert_close(value, build()(affinities.detach(), labels))


def test_half_precision_is_warned_of_once():
    affinities, labels = batch(dtype=torch.bfloat16)
    parts = [MalisLoss(OFFSETS), MaximinLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)]
    for loss in (*parts, SumLoss(parts), GrowBoundaryLoss(parts[0])):
        warn_of_half_precision.cache_clear()
        with pytest.warns(UserWarning, match="from_logits=True") as found:
            for _ in range(3):
                loss(affinities, labels)
        assert len(found) == 1
    warn_of_half_precision.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MalisLoss(OFFSETS)(affinities.float(), labels)
        MalisLoss(OFFSETS, from_logits=True)(affinities, labels)
        AffinityCrossEntropy(OFFSETS, from_logits=True)(affinities, labels)


def test_edges_that_leave_the_volume_have_no_part():
    affinities, labels = batch()
    logits = affinities.detach().logit()
    wild = logits.clone()
    wild[:, 0, 0], wild[:, 1, :, 0] = float("nan"), 700
    for loss in (
        MalisLoss(OFFSETS, from_logits=True),
        AffinityCrossEntropy(OFFSETS, from_logits=True),
    ):
        results = []
        for leaf in (wild.clone().requires_grad_(), logits.clone().requires_grad_()):
            value = loss(leaf, labels)
            results.append((value, *torch.autograd.grad(value, leaf)))
        assert all(map(torch.equal, *results))
        assert not results[0][1][:, 0, 0].any()
