import errno
import gc
import os
import pickle
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from malis.training.checkpoint import (
    CHECKPOINT,
    MODEL,
    load_model,
    read,
    save_model,
    validated_absorb,
    validated_threshold,
    write,
)
from unet import UNet
from unet.plain import PlainCNN

ARGUMENTS = {"depth": 3, "wf": 3, "n_classes": 2, "batch_norm": True}
OFFSETS = ((-1, 0), (0, -1))


@contextmanager
def full_disk(size):
    """No file may grow beyond a size: the kernel refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFiles:
    def test_round_trip(self, tmp_path):
        content = {"kind": CHECKPOINT, "weights": torch.arange(3.0), "list": [1, 2.5, "x"]}
        write(tmp_path / "a.pt", content)
        again = read(tmp_path / "a.pt", CHECKPOINT)
        assert torch.equal(again.pop("weights"), content.pop("weights")) and again == content
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]

    def test_numbers_of_numpy_become_plain(self, tmp_path):
        content = {"kind": MODEL, "rates": [(np.float64(0.5),), {np.int64(3): np.bool_(True)}]}
        write(tmp_path / "a.pt", content)
        assert read(tmp_path / "a.pt", MODEL)["rates"] == [(0.5,), {3: True}]

    def test_what_could_not_be_read_is_not_written(self, tmp_path):
        with pytest.raises(TypeError, match="could not be read again"):
            write(tmp_path / "a.pt", {"kind": MODEL, "path": tmp_path})
        assert not list(tmp_path.iterdir())

    def test_full_disk_keeps_the_earlier_file(self, tmp_path):
        path = tmp_path / "a.pt"
        write(path, {"kind": CHECKPOINT, "weights": torch.zeros(10)})
        before = path.read_bytes()
        with full_disk(5000), pytest.raises(OSError, match=r"a.pt cannot be written .* kept"):
            write(path, {"kind": CHECKPOINT, "weights": torch.zeros(10_000)})
        gc.collect()  # Python 3.12.1 crashes here if what the error holds exports its buffer
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]

    def test_error_while_flushing_keeps_the_earlier_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.pt"
        write(path, {"kind": CHECKPOINT, "step": 1})
        before = path.read_bytes()

        def no_space(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left") as caught:
            write(path, {"kind": CHECKPOINT, "step": 2})
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]

    def test_missing_folder(self, tmp_path):
        with pytest.raises(OSError, match="there is no file"):
            write(tmp_path / "none" / "a.pt", {"kind": MODEL})

    def test_bad_files(self, tmp_path):
        path = tmp_path / "a.pt"
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read(path, MODEL)
        write(path, {"kind": MODEL, "weights": torch.zeros(1000)})
        with pytest.raises(ValueError, match="should be a 'malis checkpoint 2' file"):
            read(path, CHECKPOINT)
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="damaged"):
                read(path, MODEL)
        torch.save([1, 2], path)
        with pytest.raises(ValueError, match="something else"):
            read(path, MODEL)

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Harm:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "harm"),))

        for path, dump in ((tmp_path / "a.pt", torch.save), (tmp_path / "b.pt", pickle_dump)):
            dump({"kind": MODEL, "harm": Harm()}, path)
            with pytest.raises(ValueError, match="damaged, or was not written by malis"):
                read(path, MODEL)
        assert not (tmp_path / "harm").exists()


def pickle_dump(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


class TestModels:
    def network(self):
        torch.manual_seed(0)
        network = UNet(**ARGUMENTS)
        network(torch.rand(2, 1, 44, 44))  # moves the statistics of the batch normalisation
        return network

    @pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 5e-3)])
    def test_round_trip(self, tmp_path, half, tolerance):
        network = self.network()
        card = {"data": "synthetic", "steps": 10, "scores": {"voi": [0.5, 0.6]}}
        save_model(tmp_path / "a.pt", network, ARGUMENTS, OFFSETS, card, half=half)
        model = load_model(tmp_path / "a.pt")
        assert model.offsets == OFFSETS and model.card == card
        assert isinstance(model.network, UNet) and not model.network.training
        raw = torch.rand(1, 1, 44, 44)
        with torch.no_grad():
            difference = (model.network(raw) - network.eval()(raw)).abs().max().item()
        assert difference <= tolerance
        assert all(value.dtype != torch.float16 for value in model.network.state_dict().values())

    def test_arguments_of_earlier_versions(self, tmp_path):
        """`PlainCNN` once called its number of outputs `n_affinities`; such files go on loading."""
        network = PlainCNN(out_channels=3, ndim=3)
        arguments = {"out_channels": 3, "ndim": 3}
        save_model(tmp_path / "a.pt", network, arguments, np.negative(np.eye(3, dtype=int)))
        content = torch.load(tmp_path / "a.pt", weights_only=True)
        content["arguments"] = {"n_affinities": 3, "ndim": 3}
        torch.save(content, tmp_path / "a.pt")
        assert load_model(tmp_path / "a.pt").network.out_channels == 3

    @pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
    def test_the_network_in_a_wrapper_is_saved(self, tmp_path, wrap):
        network = self.network()
        save_model(tmp_path / "a.pt", wrap(network), ARGUMENTS, OFFSETS, half=False)
        again = load_model(tmp_path / "a.pt").network.state_dict()
        assert all(torch.equal(again[name], x) for name, x in network.state_dict().items())

    def test_half_is_half_the_size(self, tmp_path):
        network = UNet(depth=3, wf=5)
        for half in (True, False):
            save_model(tmp_path / f"{half}.pt", network, {"depth": 3, "wf": 5}, OFFSETS, half=half)
        ratio = (tmp_path / "True.pt").stat().st_size / (tmp_path / "False.pt").stat().st_size
        assert 0.49 < ratio < 0.55

    def test_other_networks(self, tmp_path):
        arguments = {"ndim": 3, "out_channels": 3}
        network = PlainCNN(**arguments)
        offsets = np.negative(np.eye(3, dtype=int))
        save_model(tmp_path / "a.pt", network, arguments, offsets, half=False)
        model = load_model(tmp_path / "a.pt")
        raw = torch.rand(1, 1, 17, 17, 17)
        assert torch.equal(model.network(raw), network(raw))
        save_model(tmp_path / "b.pt", nn.Conv2d(1, 2, 3),
                   {"in_channels": 1, "out_channels": 2, "kernel_size": 3}, OFFSETS)  # fmt: skip
        with pytest.raises(ValueError, match="holds a Conv2d, known are UNet, PlainCNN"):
            load_model(tmp_path / "b.pt")
        assert isinstance(load_model(tmp_path / "b.pt", [nn.Conv2d]).network, nn.Conv2d)

    @pytest.mark.parametrize(
        ("arguments", "network"),
        [
            ({"depth": 2, "wf": 3}, UNet(depth=3, wf=3)),
            ({"depth": 3, "wf": 3}, UNet(depth=3, wf=3, padding=True)),
            ({"depth": 2, "wf": 2}, UNet(depth=2, wf=2, pool_sizes=[(1, 2)])),
            ({}, PlainCNN(activation="relu")),
        ],
    )
    def test_arguments_of_another_network(self, tmp_path, arguments, network):
        with pytest.raises(ValueError, match="another architecture"):
            save_model(tmp_path / "a.pt", network, arguments, OFFSETS)
        assert not list(tmp_path.iterdir())

    def test_errors_leave_no_file(self, tmp_path):
        network, path = self.network(), tmp_path / "a.pt"
        with pytest.raises(TypeError, match="card cannot be written as JSON"):
            save_model(path, network, ARGUMENTS, OFFSETS, {"steps": np.int64(3)})
        with pytest.raises(TypeError, match="card cannot be written as JSON"):
            save_model(path, network, ARGUMENTS, OFFSETS, {"score": float("nan")})
        with pytest.raises(ValueError, match="3 offsets for a network with 2 outputs"):
            save_model(path, network, ARGUMENTS, (*OFFSETS, (-5, 0)))
        with torch.no_grad():
            network.last.weight[0] = 1e6
        with pytest.raises(ValueError, match=r"last.weight does not fit into float16 .*1e\+06"):
            save_model(path, network, ARGUMENTS, OFFSETS)
        assert not list(tmp_path.iterdir())
        save_model(path, network, ARGUMENTS, OFFSETS, half=False)
        assert load_model(path).network.last.weight.max() == 1e6

    def test_the_network_is_left_as_it_was(self, tmp_path):
        network = self.network().train()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        save_model(tmp_path / "a.pt", network, ARGUMENTS, OFFSETS)
        assert network.training
        assert all(torch.equal(network.state_dict()[name], v) for name, v in before.items())


def test_the_threshold_of_the_card_is_that_of_the_linkage():
    scores = {"agglomeration": {"threshold": 0.8, "absorb": 90}, "mean_linkage": {"threshold": 0.6}}
    card = {"scores": scores}
    assert validated_threshold(card) == 0.6
    assert validated_threshold(card, "single") == 0.8
    assert validated_threshold({}) == 0.5
    assert validated_absorb(card, "single") == 90
    assert validated_absorb(card, "single", sections=True) == 0
    assert validated_absorb(card) == validated_absorb({}) == 0
    assert validated_threshold({}, views=True) == 0.5
    assert validated_threshold(card, views=True) == 0.6
    card["scores"]["views_mean_linkage"] = {"threshold": 0.7}
    assert validated_threshold(card, views=True) == 0.7
    assert validated_threshold(card) == 0.6
