import numpy as np
import pytest
from scipy.spatial import cKDTree

from benchmarks.derived_affinities import derive_affinities
from benchmarks.segmentation_quality import (
    DATA,
    compare,
    make_samples,
    table,
    times_waterz,
    waterz_version,
)
from malis.affinity import nearest_offsets


def cells(shape, n, seed):
    rng = np.random.default_rng(seed)
    voxels = np.indices(shape).reshape(len(shape), -1).T
    return cKDTree(rng.random((n, len(shape))) * shape).query(voxels)[1].reshape(shape) + 1


@pytest.mark.parametrize("shape", [(80, 90), (12, 40, 40)])
def test_derived_affinities_follow_the_labels(shape):
    labels = cells(shape, 12, 0)
    offsets = nearest_offsets(len(shape))
    first, again, other = (
        derive_affinities(labels, offsets, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.min() > 0 and first.max() < 1
    for channel, axis in enumerate(range(len(shape))):
        step = np.diff(labels, axis=axis) != 0
        inner = np.moveaxis(first[channel], axis, 0)[1:]
        inner = np.moveaxis(inner, 0, axis)
        assert inner[step].mean() < 0.45 < 0.75 < inner[~step].mean()


def test_methods_are_compared_on_the_same_samples():
    data = DATA["cremi_crop"]
    parts = []
    for seed in (0, 1):
        labels = cells((110, 120), 12, seed)
        affinities = derive_affinities(labels, data.offsets, np.random.default_rng(seed), noise=0.7)
        parts.append(make_samples(data, [affinities], [labels]))
    results = compare(data, *parts, waterz_python=None)
    score = {name: result["test"]["cremi_score"] for name, result in results.items()}
    assert score["mean"] < 0.5 * score["threshold_watershed"]
    assert score["mean"] < 0.5 * score["connected_components"]
    rows = [{"data": "cells", "source": "noise 0.7", "seed": 0, "methods": results}]
    assert f"{score['mean']:.3f}" in table(rows)
    assert times_waterz(rows) == {"cells": {}}


def test_without_waterz_its_columns_are_left_out(capsys):
    assert waterz_version(None) is None
    assert "waterz is not there" in capsys.readouterr().out
