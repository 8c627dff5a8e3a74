import pytest
import torch
from loss_batch import OFFSETS, batch
from torch.nn import functional as F

from malis import AffinityCrossEntropy, affinities_from_labels, malis_weights
from malis.affinity import existing_edges


def test_cross_entropy_gradient_is_exact():
    affinities, labels = batch()
    assert torch.autograd.gradcheck(AffinityCrossEntropy(OFFSETS), (affinities, labels))


def test_cross_entropy_is_torch_s_on_existing_edges():
    affinities, labels = batch()
    target = affinities_from_labels(labels, OFFSETS).double()
    exists = torch.from_numpy(existing_edges((6, 5), OFFSETS))
    expected = F.binary_cross_entropy(affinities[:, exists], target[:, exists])
    torch.testing.assert_close(AffinityCrossEntropy(OFFSETS)(affinities, labels), expected)


def test_cross_entropy_of_known_edges_by_hand():
    affinities = torch.full((1, 1, 6), 0.8, requires_grad=True)
    labels = torch.tensor([[1, 1, 2, 2, 2, 2]])
    edges = torch.tensor([[[1, 1, 1, 0, 1, 1]]])
    voxels = torch.tensor([[1, 1, 1, 1, 0, 0]])
    # The first edge leaves the volume, the fourth is unknown, the last joins unlabelled voxels.
    loss = AffinityCrossEntropy([(-1,)])(affinities, labels, edges, voxels)
    expected = torch.tensor([[0.8, 0.2, 0.2]]).log().neg().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert affinities.grad.nonzero()[:, 2].tolist() == [1, 2, 4]


def test_cross_entropy_knows_the_edges_that_malis_knows():
    affinities, labels = batch(shape=(2, 8, 8))
    generator = torch.Generator().manual_seed(5)
    masks = {
        "edge_mask": torch.rand(2, 2, 8, 8, generator=generator) < 0.7,
        "labelled_mask": torch.rand(2, 8, 8, generator=generator) < 0.6,
    }
    AffinityCrossEntropy(OFFSETS)(affinities, labels, **masks).backward()
    positive, negative = malis_weights(affinities, labels, OFFSETS, **masks)
    assert (affinities.grad[positive > 0] < 0).all() and (affinities.grad[negative > 0] > 0).all()
    assert (positive > 0).any() and (negative > 0).any()


def test_a_mask_that_hides_all_edges_leaves_nothing():
    affinities, labels = batch()
    loss = AffinityCrossEntropy(OFFSETS)
    assert loss(affinities, labels, labelled_mask=torch.zeros_like(labels)) == 0
    everything = torch.ones_like(affinities), torch.ones_like(labels)
    torch.testing.assert_close(loss(affinities, labels, *everything), loss(affinities, labels))


def test_cross_entropy_takes_affinities_and_no_logits():
    affinities, labels = batch()
    loss = AffinityCrossEntropy(OFFSETS)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        loss(8 * affinities - 4, labels)
    with pytest.raises(ValueError, match="must be finite"):
        loss(affinities * float("nan"), labels)
    with pytest.raises(TypeError, match="floating-point"):
        loss(torch.ones(affinities.shape, dtype=torch.int64), labels)


def test_cross_entropy_without_an_edge_is_zero():
    affinities = torch.rand(1, 2, 1, 1, requires_grad=True)
    loss = AffinityCrossEntropy(OFFSETS)(affinities, torch.ones(1, 1, 1, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and not affinities.grad.any()
