from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from loss_batch import OFFSETS, batch

import malis
from malis import (
    AffinityCrossEntropy,
    GrowBoundaryLoss,
    MalisLoss,
    MaximinLoss,
    SumLoss,
    WindowLoss,
)
from malis.composite import cut_windows
from malis.labels import grow_boundary, relabel_components
from malis.pairs import count_pairs


class TestSumLoss:
    def test_the_sum_of_losses(self):
        affinities, labels = batch()
        parts = MalisLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)
        expected = parts[0](affinities, labels) + 0.5 * parts[1](affinities, labels)
        torch.testing.assert_close(SumLoss(parts, [1, 0.5])(affinities, labels), expected)
        with pytest.raises(ValueError, match="got 1 weights for 2 losses"):
            SumLoss(parts, [1])

    def test_a_sum_tells_its_terms(self):
        affinities, labels = batch()
        parts = (
            MalisLoss(OFFSETS),
            AffinityCrossEntropy(OFFSETS),
            MalisLoss(OFFSETS, normalise="pairs"),
        )
        loss = SumLoss(parts, [1, 0.5, 2])
        assert loss.last_terms == {}
        terms = loss.terms(affinities, labels)
        assert list(terms) == ["MalisLoss 0", "AffinityCrossEntropy", "MalisLoss 2"]
        for part, term in zip(parts, terms.values(), strict=True):
            assert term == part(affinities, labels) and term.requires_grad
        counter = Mock(wraps=count_pairs)
        with patch("malis.loss.count_pairs", counter):
            loss(affinities.detach() * 0.9, labels)
        assert counter.call_count == 2  # the terms of a call need no second one
        assert loss.last_terms == loss.terms(affinities.detach() * 0.9, labels)
        assert not any(term.requires_grad for term in loss.last_terms.values())

    def test_the_sum_passes_masks_on(self):
        affinities, labels = batch()
        parts = [MalisLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)]
        masks = torch.ones_like(affinities), torch.ones_like(labels)
        masks[0][:, 0] = masks[1][:, 2:] = 0
        expected = parts[0](affinities, labels, *masks) + 2 * parts[1](affinities, labels, *masks)
        assert SumLoss(parts, [1, 2])(affinities, labels, *masks) == expected
        with pytest.raises(TypeError, match="labelled_mask"):
            SumLoss([MaximinLoss(OFFSETS)])(affinities, labels, labelled_mask=masks[1])


class TestWindowLoss:
    def test_windows_by_hand(self):
        labels = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2], [3, 0, 4, 3], [3, 3, 4, 3]]])
        affinities = torch.arange(32.0).reshape(1, 2, 4, 4)
        cut, pieces = cut_windows(affinities, labels, 2)
        assert pieces.tolist() == [
            [[1, 1], [1, 1]],
            [[2, 2], [2, 2]],
            [[3, 0], [3, 3]],
            [[4, 5], [4, 5]],
        ]
        assert cut[0, 0].tolist() == [[0, 1], [4, 5]]
        assert cut[3, 1].tolist() == [[26, 27], [30, 31]]

    def test_parts_that_meet_outside_are_objects_of_their_own(self):
        labels = torch.tensor([[[1, 2, 1], [1, 2, 1], [1, 1, 1], [5, 5, 5]]])
        pieces = cut_windows(torch.zeros(1, 2, 4, 3), labels, (2, 3))[1]
        assert pieces.tolist() == [[[1, 2, 3], [1, 2, 3]], [[4, 4, 4], [5, 5, 5]]]

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_the_loss_is_the_mean_over_windows_cut_by_hand(self, ndim):
        offsets = malis.nearest_offsets(ndim)
        generator = torch.Generator().manual_seed(0)
        shape = (8,) * ndim
        affinities = torch.rand(2, ndim, *shape, generator=generator)
        labels = torch.randint(0, 3, (2, *shape), generator=generator)
        loss = malis.MalisLoss(offsets)
        parts = []
        for sample in range(2):
            for corner in np.ndindex(*[2] * ndim):
                box = tuple(slice(4 * c, 4 * c + 4) for c in corner)
                piece = relabel_components(labels[sample][box].numpy())
                inside = affinities[sample][(slice(None), *box)]
                parts.append(loss(inside[None], torch.from_numpy(piece)[None]))
        whole = malis.WindowLoss(loss, 4)(affinities, labels)
        torch.testing.assert_close(whole, torch.stack(parts).mean())

    def test_a_window_as_large_as_the_patch_changes_nothing(self):
        affinities = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))
        labels = torch.arange(4).repeat_interleave(4).repeat(2, 16, 1) + 1
        loss = malis.MalisLoss(OFFSETS)
        assert malis.WindowLoss(loss, 16)(affinities, labels) == loss(affinities, labels)

    def test_edges_between_windows_get_no_gradient(self):
        affinities = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(2))
        affinities.requires_grad_()
        labels = torch.arange(8).repeat(1, 8, 1) // 2 + 1
        malis.WindowLoss(malis.MalisLoss(OFFSETS), 4)(affinities, labels).backward()
        assert affinities.grad[:, 0, ::4].count_nonzero() == 0
        assert affinities.grad[:, 1, :, ::4].count_nonzero() == 0
        assert affinities.grad.count_nonzero() > 0

    def test_windows_give_a_gradient_to_every_leak(self):
        """Two objects whose border is equally weak in two places: one patch, one maximin edge."""
        labels = torch.ones(1, 8, 16, dtype=torch.int64)
        labels[:, 4:] = 2
        affinities = torch.full((1, 2, 8, 16), 0.9)
        affinities[:, 0, 4] = 0.1
        affinities[:, 0, 4, [3, 11]] = 0.8
        for size, places in (((8, 16), 1), (8, 2)):
            leaf = affinities.clone().requires_grad_()
            malis.WindowLoss(malis.MalisLoss(OFFSETS), size)(leaf, labels).backward()
            assert (leaf.grad[0, 0, 4] > 0).sum() == places

    def test_arguments_stay_as_they_are(self):
        affinities = torch.rand(1, 2, 4, 4)
        labels = torch.randint(0, 3, (1, 4, 4))
        before = affinities.clone(), labels.clone()
        cut_windows(affinities, labels, 2)
        assert torch.equal(before[0], affinities) and torch.equal(before[1], labels)

    @pytest.mark.parametrize("size", [3, (2, 3), (2, 2, 2)])
    def test_windows_that_do_not_tile_are_named(self, size):
        with pytest.raises(ValueError, match="do not tile a patch of"):
            cut_windows(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), size)

    def test_bad_labels_are_refused(self):
        loss = malis.WindowLoss(malis.MalisLoss(OFFSETS), 4)
        affinities = torch.rand(1, 2, 4, 4)
        with pytest.raises(ValueError, match="labels must not be negative, got -1"):
            loss(affinities, torch.full((1, 4, 4), -1))
        with pytest.raises(ValueError, match=r"labels must have shape \(1, 4, 4\)"):
            loss(affinities, torch.ones(1, 8, 4, dtype=torch.int64))

    def test_masks_are_cut_like_affinities_and_labels(self):
        generator = torch.Generator().manual_seed(3)
        affinities = torch.rand(2, 2, 4, 8, generator=generator)
        labels = torch.arange(8).repeat(2, 4, 1) // 2 % 2 + 1
        edges = torch.randint(0, 2, (2, 2, 4, 8), generator=generator)
        voxels = torch.randint(0, 2, (2, 4, 8), generator=generator)
        loss = malis.MalisLoss(OFFSETS)
        parts = []
        for part in (np.s_[..., :4], np.s_[..., 4:]):  # in which labels are connected
            parts.append(loss(affinities[part], labels[part], edges[part], voxels[part]))
        whole = malis.WindowLoss(loss, 4)(affinities, labels, edges, voxels)
        torch.testing.assert_close(whole, torch.stack(parts).mean())
        for one, mask in (("edge_mask", edges), ("labelled_mask", voxels)):
            with pytest.raises(ValueError, match=f"{one} must have shape"):
                malis.WindowLoss(loss, 4)(affinities, labels, **{one: mask[..., :4]})
        with pytest.raises(TypeError, match="edge_mask"):
            malis.WindowLoss(malis.MaximinLoss(OFFSETS), 4)(affinities, labels, edges)

    def test_sizes_may_be_numbers_of_numpy(self):
        for size, expected in ((np.int64(4), 4), (np.array([4, 2]), (4, 2))):
            loss = malis.WindowLoss(malis.MalisLoss(OFFSETS), size)
            assert loss.size == expected and "int64" not in repr(loss.size)
            cut_windows(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), size)

    def test_windows_without_voxels_are_named(self):
        with pytest.raises(ValueError, match="at least 1"):
            malis.WindowLoss(malis.MalisLoss(OFFSETS), 0)


class TestGrowBoundaryLoss:
    def test_is_the_loss_of_patches_with_a_margin(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(1, 4, (3, 4, 4)).repeat(6, axis=1).repeat(6, axis=2)
        labels[0, :, 3] = labels[0, 0, 0]  # one object touches itself around others
        values = torch.rand(3, 2, 24, 24, generator=torch.Generator().manual_seed(0))
        affinities = values.requires_grad_()
        plain = malis.MalisLoss(OFFSETS, reduction="none")
        loss = malis.GrowBoundaryLoss(plain, 2)(affinities, torch.from_numpy(labels))
        loss.sum().backward()
        found = affinities.grad.clone()
        affinities.grad = None
        margin = np.stack([relabel_components(grow_boundary(one, 2)) for one in labels])
        expected = plain(affinities, torch.from_numpy(margin))
        expected.sum().backward()
        assert torch.equal(loss, expected)
        assert torch.equal(found, affinities.grad)
        assert not torch.equal(loss, plain(affinities, torch.from_numpy(labels)))

    def test_steps_along_each_axis_around_windows(self):
        labels = torch.arange(4).repeat_interleave(8).repeat(32, 1)[None]
        affinities = torch.full((1, 2, 32, 32), 0.6)
        windows = malis.WindowLoss(malis.MalisLoss(OFFSETS), 16)
        across = malis.GrowBoundaryLoss(windows, (0, 1))(affinities, labels)
        grown = torch.from_numpy(grow_boundary(labels.numpy(), (0, 0, 1)))
        assert torch.equal(across, windows(affinities, grown))
        along = malis.GrowBoundaryLoss(windows, (1, 0))(affinities, labels)
        assert torch.equal(along, windows(affinities, labels))  # no border runs across y

    def test_bad_labels_are_refused(self):
        loss = malis.GrowBoundaryLoss(malis.MalisLoss(OFFSETS))
        affinities = torch.rand(1, 2, 8, 8)
        with pytest.raises(ValueError, match="labels must not be negative, got -1"):
            loss(affinities, torch.full((1, 8, 8), -1))
        with pytest.raises(ValueError, match=r"labels must have shape \(1, 8, 8\)"):
            loss(affinities, torch.ones(1, 8, 9, dtype=torch.int64))

    def test_masks_are_passed_on(self):
        plain = malis.MalisLoss(OFFSETS)
        affinities = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(8).repeat(1, 8, 1) // 4 + 1
        masks = {"edge_mask": torch.ones(1, 2, 8, 8), "labelled_mask": torch.ones(1, 8, 8)}
        masks["edge_mask"][..., 3:] = masks["labelled_mask"][:, :3] = 0
        found = malis.GrowBoundaryLoss(plain)(affinities, labels, **masks)
        grown = torch.from_numpy(grow_boundary(labels[0].numpy()))[None]
        assert found == plain(affinities, grown, **masks) != plain(affinities, grown)

    def test_steps_may_be_numbers_of_numpy(self):
        loss = malis.GrowBoundaryLoss(malis.MalisLoss(OFFSETS), np.int64(2))
        assert loss.steps == 2 and type(loss.steps) is int

    def test_bad_steps_are_refused(self):
        plain = malis.MalisLoss(OFFSETS)
        for steps, error in ((-1, ValueError), ((1, -1), ValueError), (1.5, TypeError)):
            with pytest.raises(error):
                malis.GrowBoundaryLoss(plain, steps)
        loss = malis.GrowBoundaryLoss(plain, (1, 1, 1))
        with pytest.raises(ValueError, match="one for each of 3 axes"):
            loss(torch.rand(1, 2, 8, 8), torch.ones(1, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MalisLoss(OFFSETS),
        lambda: MaximinLoss(OFFSETS, backend="higra"),
        lambda: MaximinLoss(OFFSETS, backend="parallel"),
        lambda: WindowLoss(MalisLoss(OFFSETS), 4),
        lambda: GrowBoundaryLoss(MalisLoss(OFFSETS)),
        lambda: SumLoss([MalisLoss(OFFSETS), AffinityCrossEntropy(OFFSETS)]),
    ],
    ids=["malis", "maximin", "on the device", "windows", "margin", "sum"],
)
def test_compiled_losses_are_the_losses(make):
    affinities, labels = batch(shape=(2, 8, 8))
    torch.compiler.reset()
    results = []
    for loss in (make(), torch.compile(make(), backend="eager")):
        torch.manual_seed(0)
        value = loss(affinities, labels)
        results.append((value.item(), *torch.autograd.grad(value, affinities)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


class MeanAffinity(torch.nn.Module):
    """A loss as anyone may write it: it knows of no masks and no settings."""

    def forward(self, affinities, labels):
        return affinities.mean() + 0 * labels.sum()


def test_a_loss_of_one_s_own_works_inside():
    affinities, labels = batch(shape=(2, 8, 8))
    own = MeanAffinity()
    for loss in (WindowLoss(own, 4), GrowBoundaryLoss(own), GrowBoundaryLoss(WindowLoss(own, 4))):
        torch.testing.assert_close(loss(affinities, labels), affinities.mean())
    total = SumLoss([own, MalisLoss(OFFSETS)])
    assert list(total.terms(affinities, labels)) == ["MeanAffinity", "MalisLoss"]
    with pytest.raises(TypeError, match="edge_mask"):
        SumLoss([own])(affinities, labels, affinities > 0.5)


def test_hooks_of_the_losses_inside_run():
    affinities, labels = batch(shape=(2, 8, 8))
    shapes = []
    inner = MalisLoss(OFFSETS)
    inner.register_forward_hook(lambda module, given, result: shapes.append(given[0].shape))
    SumLoss([inner, GrowBoundaryLoss(WindowLoss(inner, 4))])(affinities, labels)
    assert shapes == [(2, 2, 8, 8), (8, 2, 4, 4)]


def test_how_a_loss_is_called_is_written_once():
    for loss in (MalisLoss, MaximinLoss, AffinityCrossEntropy, SumLoss, WindowLoss):
        assert loss.forward is malis.loss.AffinityLoss.forward
