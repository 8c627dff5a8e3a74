import numpy as np
import pytest
import torch

import malis
from malis.composite import cut_windows
from malis.labels import relabel_components

OFFSETS = malis.nearest_offsets(2)


def test_windows_by_hand():
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


def test_parts_that_meet_outside_are_objects_of_their_own():
    labels = torch.tensor([[[1, 2, 1], [1, 2, 1], [1, 1, 1], [5, 5, 5]]])
    pieces = cut_windows(torch.zeros(1, 2, 4, 3), labels, (2, 3))[1]
    assert pieces.tolist() == [[[1, 2, 3], [1, 2, 3]], [[4, 4, 4], [5, 5, 5]]]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_loss_is_the_mean_over_windows_cut_by_hand(ndim):
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


def test_a_window_as_large_as_the_patch_changes_nothing():
    affinities = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4).repeat_interleave(4).repeat(2, 16, 1) + 1
    loss = malis.MalisLoss(OFFSETS)
    assert malis.WindowLoss(loss, 16)(affinities, labels) == loss(affinities, labels)


def test_edges_between_windows_get_no_gradient():
    affinities = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    affinities.requires_grad_()
    labels = torch.arange(8).repeat(1, 8, 1) // 2 + 1
    malis.WindowLoss(malis.MalisLoss(OFFSETS), 4)(affinities, labels).backward()
    assert affinities.grad[:, 0, ::4].count_nonzero() == 0
    assert affinities.grad[:, 1, :, ::4].count_nonzero() == 0
    assert affinities.grad.count_nonzero() > 0


def test_windows_give_a_gradient_to_every_leak():
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


def test_arguments_stay_as_they_are():
    affinities = torch.rand(1, 2, 4, 4)
    labels = torch.randint(0, 3, (1, 4, 4))
    before = affinities.clone(), labels.clone()
    cut_windows(affinities, labels, 2)
    assert torch.equal(before[0], affinities) and torch.equal(before[1], labels)


@pytest.mark.parametrize("size", [3, (2, 3), (2, 2, 2)])
def test_windows_that_do_not_tile_are_named(size):
    with pytest.raises(ValueError, match="do not tile a patch of"):
        cut_windows(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), size)


def test_bad_labels_are_refused():
    loss = malis.WindowLoss(malis.MalisLoss(OFFSETS), 4)
    affinities = torch.rand(1, 2, 4, 4)
    with pytest.raises(ValueError, match="labels must not be negative, got -1"):
        loss(affinities, torch.full((1, 4, 4), -1))
    with pytest.raises(ValueError, match=r"labels must have shape \(1, 4, 4\)"):
        loss(affinities, torch.ones(1, 8, 4, dtype=torch.int64))


def test_masks_are_cut_like_affinities_and_labels():
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


def test_sizes_may_be_numbers_of_numpy():
    for size, expected in ((np.int64(4), 4), (np.array([4, 2]), (4, 2))):
        loss = malis.WindowLoss(malis.MalisLoss(OFFSETS), size)
        assert loss.size == expected and "int64" not in repr(loss.size)
        cut_windows(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), size)


def test_windows_without_voxels_are_named():
    with pytest.raises(ValueError, match="at least 1"):
        malis.WindowLoss(malis.MalisLoss(OFFSETS), 0)
