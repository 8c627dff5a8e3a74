"""One training on several devices: equal shares of every batch, one gradient.

Start it with torchrun, one process a device, and call `malis.training.train` in `process_group`:

    torchrun --nproc-per-node 4 -m malis train train.toml neurons.model

Every process draws its share of the same batch, and the gradients are averaged
(`torch.nn.parallel.DistributedDataParallel`). As the losses are means over samples and the shares
are equal, that is the gradient of the joint batch: a training of 1,000 steps of 8 patches is the
same one on one device and on four, and may go on with another number of them.

Exactly equal is it for networks without batch normalisation and losses without random numbers.
Batch normalisation takes its means over the patches of one process; the running means that are
kept are those of the first one. Dropout and sampled pairs differ from process to process.
`malis.MaximinLoss` is a mean over pairs, the same unless a patch is without any pair.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

# Processes wait for each other while the first one validates, which may take long. A process that
# dies is noticed at once all the same: torchrun ends the others.
PATIENCE = timedelta(hours=4)


@contextmanager
def process_group(device: str | torch.device | None = None) -> Iterator[torch.device | None]:
    """Join the processes that torchrun started; without torchrun, do nothing.

    Parameters
    ----------
    device : str or torch.device, optional
        "cpu" joins by gloo. By default every process takes the CUDA device of its number and
        joins by NCCL, or the CPU if there is none.

    Yields
    ------
    torch.device or None
        Where this process computes; `device` itself without torchrun.

    Raises
    ------
    ValueError
        If there are fewer CUDA devices than processes on this machine.
    """
    if "LOCAL_RANK" not in os.environ:
        yield None if device is None else torch.device(device)
        return
    number = int(os.environ["LOCAL_RANK"])
    kind = torch.device(device).type if device else "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(kind)
    if kind == "cuda":
        if number >= torch.cuda.device_count():
            raise ValueError(
                f"process {number + 1} on this machine has no device of its own: there are "
                f"{torch.cuda.device_count()}; start fewer processes, or compute on the CPU"
            )
        place = torch.device("cuda", number)
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield place
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process; 0 is the one that writes, and the only one if alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(batch_size: int) -> slice:
    """Tell which items of every joint batch are this process' own; a ValueError if not as many."""
    if batch_size % size():
        raise ValueError(
            f"batch_size {batch_size} is for all processes together and cannot be shared equally "
            f"by {size()}"
        )
    return slice(rank(), None, size())


def replicate(network: nn.Module) -> nn.Module:
    """Return a network, with the weights of process 0, that averages gradients over processes.

    It has the same parameters, and is the network itself if this process is alone.
    """
    return DistributedDataParallel(network) if size() > 1 else network


def mean(numbers: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Average numbers of the same names over the processes; NaN in one is NaN in all."""
    if size() == 1:
        return dict(numbers)
    values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(values)
    return dict(zip(numbers, (values / size()).tolist(), strict=True))


def check_equal(number: int, what: str, device: torch.device) -> None:
    """Raise ValueError in every process unless all have the same number."""
    if size() == 1:
        return
    numbers = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(size())]
    distributed.all_gather(numbers, torch.tensor([number], device=device))
    found = [int(value) for value in numbers]
    if len(set(found)) > 1:
        raise ValueError(f"the processes disagree about {what}: {found}")


def wait() -> None:
    """Wait until all processes have come here, for instance for a file of the first one."""
    if size() > 1:
        distributed.barrier()
