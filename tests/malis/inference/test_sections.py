"""Affinities that are predicted when they are read."""

import numpy as np
import pytest
import torch

import malis
from malis.inference import predict, predict_views, stack_neighbours
from malis.inference.sections import PredictedSections
from unet import UNet


def make_network(in_channels, out_channels):
    torch.manual_seed(0)
    return UNet(in_channels=in_channels, n_classes=out_channels, depth=2, wf=2, padding=True)


@pytest.mark.parametrize("neighbours", [0, 1])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("views", [False, True])
def test_they_are_those_of_the_volume(neighbours, ndim, views):
    network, offsets = make_network(2 * neighbours + 1, ndim), malis.nearest_offsets(ndim)
    raw = np.random.default_rng(0).integers(0, 256, (7, 24, 28), dtype=np.uint8)
    stack = stack_neighbours(raw, neighbours)
    if views:
        expected = predict_views(network, stack, offsets, progress=False)
    else:
        expected = predict(network, stack, progress=False)
    read = PredictedSections(network, stack, offsets if views else None, progress=False)
    assert read.shape == expected.shape and read.dtype == expected.dtype
    for z in (5, 0, *range(7)):
        np.testing.assert_allclose(read[:, z], expected[:, z], atol=2e-7)
    np.testing.assert_allclose(read[[1, 0], 3], expected[[1, 0], 3], atol=2e-7)


def test_every_section_is_predicted_once(monkeypatch):
    count = []

    def counted(network, raw, **settings):
        count.append(raw.shape[-3])
        return predict(network, raw, **settings)

    monkeypatch.setattr("malis.inference.sections.predict", counted)
    raw = np.zeros((5, 16, 16), np.uint8)
    read = PredictedSections(make_network(1, 2), raw, progress=False)
    for z in range(5):
        assert read[:, z].shape == (2, 16, 16)
        assert read[:, z] is not None  # again: it is still there
    assert count == [1] * 5
