"""Small volumes and networks for the tests of blockwise inference and segmentation."""

import numpy as np
import torch
import zarr

from benchmarks.derived_affinities import derive_affinities
from malis import nearest_offsets
from malis.scale.ome_zarr import create_ome_zarr
from malis.scale.volumes import open_volume
from malis.training.checkpoint import save_model
from unet import UNet
from unet.plain import PlainCNN

QUIET = {"workers": 0, "progress": False}

NETWORKS = {
    "unet-3d": (UNet, {"n_classes": 3, "depth": 2, "wf": 2, "ndim": 3}),
    "unet-3d-padded": (
        UNet,
        {"n_classes": 3, "depth": 2, "wf": 2, "ndim": 3, "padding": True, "batch_norm": True},
    ),
    "unet-3d-flat-pools": (
        UNet,
        {
            "n_classes": 3,
            "depth": 3,
            "wf": 1,
            "ndim": 3,
            "padding": True,
            "up_mode": "upsample",
            "pool_sizes": [[1, 2, 2], [1, 2, 2]],
            "kernel_sizes": [[1, 3, 3]] * 3,
        },
    ),
    "unet-2d": (UNet, {"depth": 3, "wf": 2, "padding": True}),
    "unet-2d-neighbours": (UNet, {"depth": 3, "wf": 2, "padding": True, "in_channels": 5}),
    "cnn-3d": (PlainCNN, {"out_channels": 3, "ndim": 3, "n_layers": 2}),
}


def write_model(path, kind, card=None):
    """Save a network with random weights, large enough that affinities differ."""
    torch.manual_seed(0)
    build, arguments = NETWORKS[kind]
    network = build(**arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    save_model(path, network, arguments, nearest_offsets(network.ndim), card, half=False)
    return path


def write_volume(path, values, resolution=(40, 4, 4), **attributes):
    create_ome_zarr(
        path,
        values.shape,
        values.dtype,
        resolution=resolution,
        offset=(80, 8, 4),
        block=tuple(min(16, n) for n in values.shape[-3:]),
        attributes=attributes,
    )
    zarr.open_array(path / "0", mode="r+")[...] = values
    return open_volume(path)


def make_cells(shape=(24, 96, 104), n=45, noise=0.2):
    """Noisy affinities of neurites that run along z, and their labels."""
    rng = np.random.default_rng(0)
    begin = rng.uniform(0, 1, (n, 2)) * shape[1:]
    centres = begin + rng.normal(0, 0.5, (shape[0], n, 2)).cumsum(axis=0)
    pixels = np.stack(np.indices(shape[1:]), axis=-1)[..., None, :]
    labels = np.stack([((pixels - c) ** 2).sum(axis=-1).argmin(axis=-1) for c in centres]) + 1
    return derive_affinities(labels, nearest_offsets(3), rng, noise=noise), labels
