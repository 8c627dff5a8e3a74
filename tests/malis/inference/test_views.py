import numpy as np
import pytest
import torch

import malis
from malis.affinity import affinities_from_labels
from malis.inference import predict
from malis.inference.views import View, all_views, predict_views
from unet import UNet

LONG = [[-1, 0], [0, -1], [-3, 0], [0, 3], [-2, -2], [2, -2]]


def labels_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 3, shape)


def network(ndim, channels=None, **settings):
    torch.manual_seed(0)
    return UNet(n_classes=channels or ndim, ndim=ndim, depth=2, wf=2, padding=True, **settings)


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [((7, 5), malis.nearest_offsets(2)), ((7, 5), LONG), ((3, 4, 6), malis.nearest_offsets(3))],
)
def test_restored_affinities_of_a_view_are_those_of_the_volume(shape, offsets):
    offsets = np.array(offsets)
    labels = labels_of(shape)
    expected = affinities_from_labels(labels, offsets)
    views = list(all_views(len(shape)))
    assert len(set(views)) == len(views) == 2 ** (len(shape) + 1)
    for view in views:
        seen = affinities_from_labels(view.of(labels), offsets)
        np.testing.assert_array_equal(view.restored(seen, offsets), expected)


def test_undo_returns_the_volume():
    volume = labels_of((3, 4, 6))
    for view in all_views(3):
        np.testing.assert_array_equal(view.undo(view.of(volume)), volume)


@pytest.mark.parametrize(("ndim", "shape"), [(2, (20, 28)), (2, (3, 20, 28)), (3, (8, 12, 16))])
def test_mean_does_not_depend_on_how_the_volume_lies(ndim, shape):
    net, offsets = network(ndim), malis.nearest_offsets(ndim)
    volume = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    mean = predict_views(net, volume, offsets, progress=False)
    plain = predict(net, volume, progress=False)
    assert mean.shape == plain.shape
    assert mean.dtype == np.float32
    exists = np.broadcast_to(
        malis.existing_edges(shape[-ndim:], offsets).reshape(
            ndim, *(1,) * (len(shape) - ndim), *shape[-ndim:]
        ),
        mean.shape,
    )
    assert not mean[~exists].any()
    assert np.abs(mean - plain)[exists].max() > 1e-3
    for view in all_views(ndim):
        turned = predict_views(net, view.of(volume), offsets, progress=False)
        np.testing.assert_allclose(
            view.restored(turned, np.array(offsets)), mean, rtol=0, atol=1e-5
        )


def test_logits_several_channels_and_tensors():
    net = network(2, in_channels=2)
    volume = torch.rand(2, 24, 16)
    offsets = malis.nearest_offsets(2)
    logits = predict_views(net, volume, offsets, activation=None, progress=False)
    by_hand = np.mean(
        [
            view.restored(
                predict(net, view.of(volume.numpy()), activation=None, progress=False),
                np.array(offsets),
            )
            for view in all_views(2)
        ],
        axis=0,
    )
    np.testing.assert_allclose(logits, by_hand, rtol=0, atol=1e-5)


def test_bad_input_is_refused():
    volume = np.zeros((16, 16), np.uint8)
    with pytest.raises(TypeError, match="takes no out"):
        predict_views(network(2), volume, malis.nearest_offsets(2), out=np.zeros((2, 16, 16)))
    with pytest.raises(ValueError, match="predicts 2 affinities with 2 axes or more"):
        predict_views(network(2), volume, malis.nearest_offsets(3))
    with pytest.raises(ValueError, match="predicts 3 affinities with 3 axes or more"):
        predict_views(network(3), volume, [[-1, 0], [0, -1], [-1, -1]])
    with pytest.raises(ValueError, match=r"\[-2, 3\] becomes .* nor its opposite"):
        predict_views(network(2), volume, [[-2, 3], [0, -1]], progress=False)


def test_view_tells_where_an_offset_points():
    view = View(flipped=(-1,), transposed=True)
    assert view.turned(np.array([-2, 5])).tolist() == [5, 2]
