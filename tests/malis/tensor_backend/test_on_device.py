"""The path "parallel" copies nothing to the host: tested without a GPU, by tensors that refuse."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from malis import (
    AffinityCrossEntropy,
    GrowBoundaryLoss,
    MalisLoss,
    MaximinLoss,
    SumLoss,
    WindowLoss,
    nearest_offsets,
)

OFFSETS = nearest_offsets(2)
COPIES = ("numpy", "cpu", "tolist", "__array__", "pin_memory")
WAITS = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "index_bool", "masked_select")


class OnDevice(torch.Tensor):
    """A tensor that says it is on a GPU, and cannot be read but number by number."""

    is_cuda = property(lambda self: True)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert getattr(function, "__name__", "") not in COPIES, function
        return super().__torch_function__(function, types, args, kwargs or {})


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.split("::")[-1]
        if name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            name = "index_bool"
        if name in WAITS:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


def case(shape=(2, 16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape[0], 2, *shape[1:], generator=generator)
    labels = torch.arange(4).repeat_interleave(4).repeat(2, 16, 1)
    labels[:, 5:] += 2
    masks = [
        torch.rand(logits.shape, generator=generator) < 0.8,
        torch.rand(labels.shape, generator=generator) < 0.8,
    ]
    return logits, labels, masks


def losses(from_logits, backend):
    options = {"from_logits": from_logits}
    malis_loss = MalisLoss(OFFSETS, backend=backend, **options)
    maximin = MaximinLoss(OFFSETS, n_pairs=50, backend=backend, **options)
    entropy = AffinityCrossEntropy(OFFSETS, **options)
    return {
        "malis": malis_loss,
        "unconstrained": MalisLoss(OFFSETS, constrained=False, backend=backend, **options),
        "pairs": MalisLoss(OFFSETS, normalise="pairs", backend=backend, **options),
        "maximin": maximin,
        "entropy": entropy,
        "windows": WindowLoss(malis_loss, 8),
        "margin": GrowBoundaryLoss(malis_loss),
        "margin of entropy": GrowBoundaryLoss(entropy),
        "margin around windows": GrowBoundaryLoss(WindowLoss(maximin, 8)),
        "windows around a margin": WindowLoss(GrowBoundaryLoss(malis_loss), 8),
        "all": SumLoss([GrowBoundaryLoss(SumLoss([WindowLoss(malis_loss, 4), entropy])), entropy]),
    }


NAMES = list(losses(False, "auto"))


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_loss_copies_data_to_the_host(name, masked, from_logits):
    logits, labels, masks = case()
    values = logits if from_logits else logits.sigmoid()
    masks = masks if masked and "maximin" not in name and name != "margin around windows" else []
    results = []
    for backend, kind in (("parallel", torch.Tensor), ("auto", OnDevice)):
        leaf = values.clone().as_subclass(kind).requires_grad_()
        torch.manual_seed(0)
        loss = losses(from_logits, backend)[name]
        value = loss(leaf, labels.as_subclass(kind), *(mask.as_subclass(kind) for mask in masks))
        assert type(value) is kind
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append([x.as_subclass(torch.Tensor) for x in (value, gradient)])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("name", "waits"),
    [("entropy", 2), ("malis", 67), ("maximin", 28), ("windows", 61), ("margin", 72)],
)
def test_how_often_the_host_waits(name, waits):
    logits, labels, _ = case()
    leaf = logits.requires_grad_()
    with Waits() as found:
        losses(True, "parallel")[name](leaf, labels).backward()
    assert found.counts.total() == waits, found.counts


class OnMPS(torch.Tensor):
    """A tensor that says it is on a device without float64, and is moved to the host by `cpu`."""

    device = property(lambda self: torch.device("mps"))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name == "cpu" or (name == "to" and torch.device("cpu") in args[1:]):
            return args[0].as_subclass(torch.Tensor).clone()
        result = super().__torch_function__(function, types, args, kwargs or {})
        wide = torch.float64, torch.complex128
        assert not (isinstance(result, cls) and result.dtype in wide), function
        return result


class ToMPS(torch.overrides.TorchFunctionMode):
    """Lets tensors be moved to the device of `OnMPS`, and made as if there."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def elsewhere(argument):
            return isinstance(argument, torch.device) and argument.type == "mps"

        kwargs = {name: value for name, value in (kwargs or {}).items() if not elsewhere(value)}
        here = [argument for argument in args if not elsewhere(argument)]
        moved = len(here) < len(args)
        result = here[0] if moved and len(here) == 1 else function(*here, **kwargs)
        return result.as_subclass(OnMPS) if moved else result


@pytest.mark.parametrize("backend", ["auto", "parallel"])
@pytest.mark.parametrize("name", NAMES)
def test_on_mps_pairs_are_counted_on_the_host(name, backend):
    """Nobody here has such a device: these tensors refuse what it refuses."""
    logits, labels, _ = case()
    results = []
    for kind in (torch.Tensor, OnMPS):
        leaf = logits.clone().as_subclass(kind).requires_grad_()
        torch.manual_seed(0)
        with ToMPS():
            value = losses(True, backend)[name](leaf, labels.as_subclass(kind))
        assert type(value) is kind
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append([x.detach().as_subclass(torch.Tensor) for x in (value, gradient)])
    assert all(map(torch.equal, *results))


def test_the_tensors_refuse():
    tensor = torch.ones(2).as_subclass(OnDevice)
    for copy in (tensor.cpu, tensor.numpy, tensor.tolist, (tensor + 1).numpy):
        with pytest.raises(AssertionError):
            copy()
