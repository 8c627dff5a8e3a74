"""One step of somebody's loop, for tests/malis/test_clients.py; torchrun starts two of them."""

import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from malis import AffinityCrossEntropy, MalisLoss, SumLoss, WindowLoss, nearest_offsets
from malis.training import save_model
from unet import UNet

OFFSETS = nearest_offsets(2)
ARGUMENTS = {"depth": 2, "wf": 2, "padding": True}


def readme_loss():
    """The sum that the README recommends, on logits."""
    parts = [
        WindowLoss(MalisLoss(OFFSETS, from_logits=True), 16),
        AffinityCrossEntropy(OFFSETS, from_logits=True),
    ]
    return SumLoss(parts, weights=[0.3, 1.0])


def network():
    torch.manual_seed(0)
    return UNet(**ARGUMENTS)


def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(8).repeat(4, 32, 1) + 1
    labels[:, 16:] += 4
    return torch.randn(4, 1, 32, 32, generator=generator), labels


def step(net, raw, labels):
    """Do one step of plain gradient descent with a rate of 1: weights differ by the gradient."""
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    readme_loss()(net(raw), labels).backward()
    optimiser.step()


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    own = slice(2 * distributed.get_rank(), 2 * distributed.get_rank() + 2)
    raw, labels = batch()
    net = DistributedDataParallel(network())
    step(net, raw[own], labels[own])
    if distributed.get_rank() == 0:
        torch.save(net.module.state_dict(), sys.argv[1])
        save_model(sys.argv[2], net, ARGUMENTS, OFFSETS, half=False)  # wrapped as it is
    distributed.barrier()  # or one process ends while the other still needs it
    distributed.destroy_process_group()
