"""A small batch for the tests of the losses."""

import torch

from malis import nearest_offsets

OFFSETS = nearest_offsets(2)


def batch(seed=0, shape=(2, 6, 5), n_labels=4, dtype=torch.float64):
    """Affinities far enough apart for finite differences, and labels."""
    generator = torch.Generator().manual_seed(seed)
    n_values = shape[0] * 2 * shape[1] * shape[2]
    values = (torch.randperm(n_values, generator=generator) + 0.5) / n_values
    affinities = (0.05 + 0.9 * values).to(dtype).reshape(shape[0], 2, *shape[1:])
    labels = torch.randint(0, n_labels, shape, generator=generator)
    return affinities.requires_grad_(), labels
