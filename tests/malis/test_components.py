import numpy as np
import pytest
import torch

from malis.labels import relabel_batch, relabel_components


def test_parts_of_objects_by_hand():
    assert relabel_components(np.array([[7, 0, 7], [7, 3, 3]])).tolist() == [[1, 0, 2], [1, 3, 3]]


def test_samples_of_a_batch_are_not_joined():
    batch = np.array([[[1, 0, 1]], [[1, 1, 1]]])
    assert relabel_batch(batch).tolist() == [[[1, 0, 2]], [[3, 3, 3]]]


@pytest.mark.parametrize("relabel", [relabel_components, relabel_batch])
def test_tensors_are_refused(relabel):
    with pytest.raises(TypeError, match="labels must be a NumPy array, got Tensor"):
        relabel(torch.ones(1, 2, 3, dtype=torch.int64))
