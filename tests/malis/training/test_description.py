"""What a checkpoint knows of its training: plain values, equal for what is built alike."""

import functools
import json

import numpy as np
import torch
from monai import transforms
from torch import nn
from torch.utils.data import TensorDataset

from malis import GrowBoundaryLoss, MalisLoss, MaximinLoss, SumLoss, WindowLoss, nearest_offsets
from malis.training import Augmentation, CosineDecay, LabelledVolume, PatchDataset, describe
from malis.training.augmentation import grey_value_changes
from malis.training.description import architecture, differences, known_by_name
from unet import UNet
from unet.plain import PlainCNN

OFFSETS = nearest_offsets(2)


def patches(value=0, **settings):
    _, y, x = np.indices((4, 64, 64))
    labels = ((y // 16) * 4 + x // 16 + 1).astype(np.uint64)
    raw = np.full(labels.shape, value, np.uint8)
    volume = LabelledVolume(raw, labels, (40.0, 4.0, 4.0))
    return PatchDataset(volume, (28, 28), (12, 12), augment=Augmentation(), **settings)


def test_by_hand():
    assert describe(CosineDecay(0.1, 50)) == {
        "class": "CosineDecay", "peak": 0.1, "steps": 50, "done": 0
    }  # fmt: skip
    assert describe(functools.partial(torch.optim.SGD, momentum=0.9)) == {
        "class": "partial", "function": "SGD", "arguments": [], "keywords": {"momentum": 0.9}
    }  # fmt: skip
    assert describe(WindowLoss(MaximinLoss(OFFSETS, n_pairs=np.int64(7)), (16, 16))) == {
        "class": "WindowLoss",
        "size": [16, 16],
        "loss": {
            "class": "MaximinLoss", "offsets": [[-1, 0], [0, -1]], "n_pairs": 7, "margin": 0.3,
            "edge_loss": "squared_hinge", "balanced": True, "reduction": "mean",
            "generator": None, "backend": "auto",
        } | {name: describe(MaximinLoss(OFFSETS))[name] for name in ("from_logits",)
             if name in describe(MaximinLoss(OFFSETS))},
    }  # fmt: skip


def test_numbers_count_as_numbers():
    assert describe([1, 2.0, (3,)]) == [np.float32(1), np.int64(2), [3.0]]
    assert describe(float("nan")) == describe(np.nan)
    assert describe(MalisLoss(np.array(OFFSETS))) == describe(MalisLoss(OFFSETS))


def test_what_is_built_alike_is_alike_and_nothing_else_is():
    built = {
        "loss": lambda: MalisLoss(OFFSETS),
        "other edges": lambda: MalisLoss([(0, -1), (-1, 0)]),
        "hinge": lambda: MalisLoss(OFFSETS, edge_loss="squared_hinge"),
        "margin": lambda: GrowBoundaryLoss(MalisLoss(OFFSETS), 1),
        "wide margin": lambda: GrowBoundaryLoss(MalisLoss(OFFSETS), (1, 2)),
        "sum": lambda: SumLoss([MalisLoss(OFFSETS)], [1.0]),
        "weighted": lambda: SumLoss([MalisLoss(OFFSETS)], [2.0]),
        "patches": patches,
        "other patches": lambda: patches(seed=1),
        "other volume": lambda: patches(value=1),
        "torch": lambda: TensorDataset(torch.zeros(3, 200), torch.ones(3)),
        "other tensor": lambda: TensorDataset(torch.zeros(3, 200), torch.zeros(3)),
        "large": lambda: TensorDataset(torch.arange(200.0)),
        "bfloat16": lambda: TensorDataset(torch.arange(200.0).bfloat16()),
        "weights": lambda: nn.CrossEntropyLoss(weight=torch.ones(2)),
        "other weights": lambda: nn.CrossEntropyLoss(weight=torch.zeros(2)),
        "noise": lambda: Augmentation(grey_values=grey_value_changes(noise=np.float64(0.08))),
        "more noise": lambda: Augmentation(grey_values=grey_value_changes(noise=0.1)),
        "gamma": lambda: transforms.RandAdjustContrast(prob=0.5, gamma=(0.5, 2.0)),
    }
    texts = {name: json.dumps(describe(build())) for name, build in built.items()}
    assert len(set(texts.values())) == len(texts)
    for name, build in built.items():
        assert json.dumps(describe(build())) == texts[name]
        assert "0x" not in texts[name]


def test_networks_are_alike_whose_weights_can_be_exchanged():
    first = UNet(depth=2, wf=2, batch_norm=True)
    assert architecture(first) == architecture(UNet(depth=2, wf=2, batch_norm=True))
    assert architecture(first) == architecture(nn.DataParallel(first))
    others = [
        first,
        UNet(depth=2, wf=2),
        UNet(depth=2, wf=3, batch_norm=True),
        UNet(depth=2, wf=2, batch_norm=True, padding=True),
        UNet(depth=2, wf=2, batch_norm=True, up_mode="upsample"),
        UNet(depth=2, wf=2, batch_norm=True, pool_sizes=[(1, 2)]),
        nn.Sequential(nn.Dropout(0.5), first),
        nn.Sequential(nn.Dropout(0.2), first),
        PlainCNN(),
        PlainCNN(activation="relu"),
    ]
    texts = [json.dumps(architecture(network)) for network in others]
    assert len(set(texts)) == len(texts)


def test_arguments_that_another_pytorch_may_have_are_not_named():
    assert architecture(nn.BatchNorm2d(4)) == {
        "class": "BatchNorm2d", "num_features": 4,
        **{name: {"shape": [4], "dtype": "float32"}
           for name in ("weight", "bias", "running_mean", "running_var")},
        "num_batches_tracked": {"shape": [], "dtype": "int64"},
    }  # fmt: skip


def test_what_is_known_by_name_only():
    def rate(step):
        return 0.1

    class Hidden:
        def __init__(self, size):
            self._size = size

    assert known_by_name(rate) == [describe(rate)]
    assert known_by_name([Hidden(3), {"rate": rate}]) == [Hidden.__qualname__, rate.__qualname__]
    assert not known_by_name([patches(), MalisLoss(OFFSETS), torch.optim.Adam, CosineDecay(1, 2)])


def test_objects_may_hold_themselves():
    class Node:
        def __init__(self, other):
            self.other = other

    node = Node(None)
    node.other = node
    assert describe(node)["other"] == {"class": Node.__qualname__}


def test_differences_name_the_place():
    was, now = (SumLoss([MalisLoss(OFFSETS)], [weight]) for weight in (1, 2))
    assert list(differences(describe(was), describe(now), "loss")) == [
        "loss.weights.0 was 1.0, is 2.0"
        if isinstance(describe(was)["weights"][0], float)
        else "loss.weights.0 was 1, is 2"
    ]
    assert not list(differences(describe(was), describe(was), "loss"))
    assert list(differences({"class": "A"}, {"class": "B", "x": 1}, "thing")) == [
        "thing was A, is B"
    ]
    assert list(differences([1], [1, 2], "thing")) == ["thing was [1], is [1, 2]"]
    assert list(differences({"a": 1}, {"a": 1, "b": "x"}, "thing")) == ["thing.b was None, is x"]
