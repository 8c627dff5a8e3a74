"""Connected components of a whole batch, on the device where it is."""

import numpy as np
import torch
from torch import Tensor

from malis._checks import comparable, like
from malis.affinity import nearest_offsets
from malis.tensor_backend.boruvka import Grid, grid_forest
from malis.tensor_backend.tensors import as_tensor


def parallel_components(labels: Tensor) -> Tensor:
    """Give every connected part of every object of a (B, *spatial) batch an id of its own.

    Any forest of the edges within objects tells the components. If all edges are alike, the lowest
    number wins: every voxel picks the edge to its predecessor, and nearly all is done in one round.
    Ids are 1, 2, ... in the order of their first voxel; background stays 0.
    """
    given, labels = labels, comparable(as_tensor(labels))
    ndim = labels.ndim - 1
    offsets = np.pad(nearest_offsets(ndim), ((0, 0), (1, 0)))
    grid = Grid(torch.zeros((ndim, *labels.shape), device=labels.device), offsets)
    forest = grid_forest(grid, grid.inner_edges(labels))

    voxels = torch.arange(labels.numel(), device=labels.device)
    component = forest.component.to(torch.int64)
    first = voxels.new_full((len(forest.parent),), len(voxels))
    first = first.scatter_reduce_(0, component, voxels, "amin").index_select(0, component)
    background = (labels == 0).flatten()
    number = (first == voxels).logical_and_(~background).cumsum(0)
    number = number.index_select(0, first).masked_fill_(background, 0)
    return like(number.view(labels.shape), given)
