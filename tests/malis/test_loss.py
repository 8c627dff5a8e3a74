from pathlib import Path

import numpy as np
import pytest
import torch
from loss_batch import OFFSETS, batch

from malis import (
    AffinityCrossEntropy,
    MalisLoss,
    MaximinLoss,
    malis_weights,
    maximin_edges,
    pair_counts,
    rand_error,
)
from malis.affinity import existing_edges

OWN = Path(__file__).parents[1] / "fixtures/malis"
CASES = sorted(path for path in OWN.glob("*.npz") if path.stem != "3d_zero_offset")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_loss_and_gradient_equal_the_reference_program(path):
    case = {name: torch.from_numpy(array)[None] for name, array in np.load(path).items()}
    affinities = case["affs"].double().requires_grad_()
    loss = MalisLoss(case["offsets"][0])
    masks = case.get("gt_aff_mask"), case.get("gt_seg_unlabelled")
    value = loss(affinities, case["labels"], *masks)
    value.backward()
    assert value.item() == pytest.approx(float(case["loss_sq"]), rel=1e-9)
    expected = 2 * case["weights"] * (affinities.detach() - case["gt_affs"])
    torch.testing.assert_close(affinities.grad, expected, rtol=1e-9, atol=1e-15)
    exists = torch.from_numpy(existing_edges(case["labels"].shape[1:], case["offsets"][0]))
    assert (affinities.grad[0][~exists] == 0).all()


def test_two_pixels_by_hand():
    affinities = torch.tensor([[[0.0, 0.6, 0.2]]], requires_grad=True)
    labels = torch.tensor([[1, 1, 2]])
    # One pair within object 1 hangs on 0.6, two pairs across on 0.2; each pass is normalised.
    loss = MalisLoss([(-1,)])(affinities, labels)
    loss.backward()
    assert loss.item() == pytest.approx((1 - 0.6) ** 2 + 0.2**2)
    torch.testing.assert_close(affinities.grad, torch.tensor([[[0.0, -0.8, 0.4]]]))
    raw = MalisLoss([(-1,)], normalise="none")(affinities, labels)
    assert raw.item() == pytest.approx(1 * (1 - 0.6) ** 2 + 2 * 0.2**2)
    pairs = MalisLoss([(-1,)], normalise="pairs", positive_weight=3)(affinities, labels)
    assert pairs.item() == pytest.approx((3 * (1 - 0.6) ** 2 + 2 * 0.2**2) / 3)


@pytest.mark.parametrize("edge_loss", ["squared", "squared_hinge", "cross_entropy"])
@pytest.mark.parametrize("normalise", ["none", "pass", "pairs"])
@pytest.mark.parametrize("constrained", [True, False])
def test_malis_gradient_is_exact(edge_loss, normalise, constrained):
    affinities, labels = batch()
    loss = MalisLoss(
        OFFSETS,
        edge_loss=edge_loss,
        normalise=normalise,
        constrained=constrained,
        positive_weight=0.7,
        margin=0.2,
    )
    assert torch.autograd.gradcheck(loss, (affinities, labels), eps=1e-4, atol=1e-3)


@pytest.mark.parametrize("edge_loss", ["squared", "squared_hinge", "cross_entropy"])
def test_maximin_gradient_is_exact(edge_loss):
    affinities, labels = batch()

    def same_pairs_each_time(affinities, labels):
        generator = torch.Generator().manual_seed(0)
        return MaximinLoss(OFFSETS, n_pairs=50, edge_loss=edge_loss, generator=generator)(
            affinities, labels
        )

    assert torch.autograd.gradcheck(same_pairs_each_time, (affinities, labels), eps=1e-4, atol=1e-3)


def test_weights_are_normalised_as_documented():
    affinities, labels = batch()
    counts = pair_counts(affinities, labels, OFFSETS)
    raw = malis_weights(affinities, labels, OFFSETS, normalise="none")
    for weights, count in zip(raw, counts, strict=True):
        assert torch.equal(weights, count.double())
    for weights in malis_weights(affinities, labels, OFFSETS):
        torch.testing.assert_close(weights.flatten(1).sum(1), torch.ones(2).double())
    n_voxels = (labels != 0).flatten(1).sum(1)
    positive, negative = malis_weights(affinities, labels, OFFSETS, normalise="pairs")
    for sample in range(2):
        n_pairs = n_voxels[sample] * (n_voxels[sample] - 1) / 2
        torch.testing.assert_close(positive[sample], counts[0][sample] / n_pairs.double())
        torch.testing.assert_close(negative[sample], counts[1][sample] / n_pairs.double())
    assert not positive.requires_grad


def test_pairs_of_unlabelled_voxels_are_in_the_normalisation():
    affinities, labels = batch()
    mask = torch.ones_like(labels)
    mask[:, :2] = 0
    counts = pair_counts(affinities, labels, OFFSETS, labelled_mask=mask)
    weights = malis_weights(affinities, labels, OFFSETS, normalise="pairs", labelled_mask=mask)
    n_voxels = int(((labels[0] != 0) | (mask[0] == 0)).sum())
    expected = counts[1][0].double() / (n_voxels * (n_voxels - 1) / 2)
    torch.testing.assert_close(weights[1][0], expected)


def test_with_hard_affinities_the_unconstrained_loss_is_the_rand_error():
    labels = torch.tensor([[1, 1, 2, 2, 2, 3]])
    affinities = torch.tensor([[[0.0, 1, 0, 1, 0, 1]]])  # one split, one merger
    loss = MalisLoss([(-1,)], constrained=False, normalise="pairs")(affinities, labels)
    # wrong: object 2's pairs (3 4) (3 5), and the merged pair (5 6), of 15
    assert loss.item() == pytest.approx((2 + 1) / 15)
    assert loss.item() == pytest.approx(rand_error(affinities[0], labels[0], [(-1,)]))


def test_maximin_loss_is_the_mean_over_its_pairs():
    affinities = torch.tensor([[[0.0, 0.9, 0.2]]], requires_grad=True)
    labels = torch.tensor([[1, 1, 2]])
    loss = MaximinLoss([(-1,)], n_pairs=10, margin=0.3)(affinities, labels)
    # 5 times the one pair within object 1 (0.9: no loss), 5 times a pair across (0.2: no loss)
    assert loss.item() == 0
    loss = MaximinLoss([(-1,)], n_pairs=10, edge_loss="squared")(affinities, labels)
    assert loss.item() == pytest.approx((0.1**2 + 0.2**2) / 2)
    single = MaximinLoss([(-1,)], n_pairs=10, edge_loss="squared", reduction="none")
    assert single(affinities, labels).shape == (10,)


def test_maximin_gradient_falls_on_maximin_edges_only():
    affinities, labels = batch()
    MaximinLoss(OFFSETS, n_pairs=5, edge_loss="squared")(affinities, labels).backward()
    for sample, gradient in zip(affinities, affinities.grad, strict=True):
        pairs = np.argwhere(np.triu(np.ones((30, 30)), 1))
        possible = torch.zeros_like(gradient, dtype=torch.bool)
        possible[tuple(maximin_edges(sample, OFFSETS, torch.from_numpy(pairs)).T)] = True
        assert 0 < (gradient != 0).sum() <= 5
        assert possible[gradient != 0].all()


def test_maximin_pairs_come_from_the_generator():
    affinities, labels = batch()

    def value(generator=None):
        return MaximinLoss(OFFSETS, n_pairs=20, generator=generator)(affinities, labels).item()

    first, second = (value(torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second
    torch.manual_seed(5)
    first, other = value(), value()
    torch.manual_seed(5)
    assert value() == first != other


def test_patches_without_pairs_cost_nothing():
    affinities, _ = batch()
    empty = torch.zeros(2, 6, 5, dtype=torch.int64)
    for loss in (MalisLoss(OFFSETS), MaximinLoss(OFFSETS)):
        affinities.grad = None
        value = loss(affinities, empty)
        value.backward()
        assert value.item() == 0
        assert (affinities.grad == 0).all()


@pytest.mark.parametrize("backend", ["higra", "parallel"])
def test_masks_of_half_precision(backend):
    affinities, labels = batch()
    mask = torch.zeros(affinities.shape, dtype=torch.bfloat16)
    mask[:, 1] = 1
    loss = MalisLoss(OFFSETS, backend=backend)
    assert loss(affinities, labels, mask) == loss(affinities, labels, mask.bool())


def test_reductions_are_over_samples():
    affinities, labels = batch()
    each = MalisLoss(OFFSETS, reduction="none")(affinities, labels)
    assert each.shape == (2,)
    torch.testing.assert_close(MalisLoss(OFFSETS)(affinities, labels), each.mean())
    total = MalisLoss(OFFSETS, reduction="sum")(affinities, labels)
    torch.testing.assert_close(total, each.sum())
    alone = MalisLoss(OFFSETS)(affinities[1:], labels[1:])
    torch.testing.assert_close(alone, each[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    affinities, labels = batch(dtype=dtype)
    for loss in (MalisLoss(OFFSETS), MaximinLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)):
        affinities.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(affinities, labels)
        assert value.dtype == torch.float32
        value.backward()
        assert affinities.grad.dtype == dtype
        assert affinities.grad.isfinite().all()


def test_saturated_wrong_affinities_have_finite_gradients():
    logits = torch.tensor([[[0.0, -200, 200, -200]]], requires_grad=True)
    labels = torch.tensor([[1, 1, 2, 2]])
    for loss in (MalisLoss([(-1,)], edge_loss="cross_entropy"), AffinityCrossEntropy([(-1,)])):
        value = loss(logits.sigmoid(), labels)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


def test_arguments_are_left_alone():
    affinities, labels = batch()
    before = affinities.detach().clone(), labels.clone()
    for loss in (MalisLoss(OFFSETS), MaximinLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)):
        loss(affinities, labels).backward()
    assert torch.equal(affinities, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("loss", [MalisLoss(OFFSETS), MaximinLoss(OFFSETS)])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, s: (a * torch.nan, s), ValueError, "finite"),
        (lambda a, s: (a + 1, s), ValueError, r"in \[0, 1\]"),
        (lambda a, s: (a, s[:, 1:]), ValueError, r"labels must have shape \(2, 6, 5\)"),
        (lambda a, s: (a, s - 1), ValueError, "labels must not be negative"),
        (lambda a, s: (a, s.float()), TypeError, "labels must be integers"),
        (lambda a, s: (a[:, :1], s), ValueError, "for 2 offsets"),
        (lambda a, s: (a[0], s[0]), ValueError, r"affinities must have shape \(B, 2, y, x\)"),
    ],
)
def test_bad_input_is_named(loss, change, error, message):
    affinities, labels = batch()
    with pytest.raises(error, match=message):
        loss(*change(affinities.detach(), labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MalisLoss(OFFSETS, normalise="sum"), "normalise must be one of none, pass, pairs"),
        (lambda: MalisLoss(OFFSETS, edge_loss="l1"), "edge_loss must be one of"),
        (lambda: MalisLoss(OFFSETS, margin=1), r"margin must be in \[0, 1\)"),
        (lambda: MalisLoss(OFFSETS, positive_weight=-1), "positive_weight must be"),
        (lambda: MalisLoss(OFFSETS, reduction="max"), "reduction must be one of"),
        (
            lambda: MalisLoss(OFFSETS, backend="gpu"),
            "backend must be one of auto, higra, numba, pa",
        ),
        (lambda: MaximinLoss(OFFSETS, n_pairs=0), "n_pairs must be at least 1"),
        (lambda: MalisLoss([(0, 0)]), "offset 0 is zero"),
    ],
)
def test_bad_choices_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [MalisLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)])
def test_edges_that_leave_the_volume_have_no_part(loss):
    affinities, labels = batch()
    wild = affinities.detach().clone()
    wild[:, 0, 0], wild[:, 1, :, 0] = float("nan"), 7
    wild.requires_grad_()
    assert loss(wild, labels) == loss(affinities, labels)
    loss(wild, labels).backward()
    loss(affinities, labels).backward()
    assert torch.equal(wild.grad, affinities.grad)
    assert not wild.grad[:, 0, 0].any()
