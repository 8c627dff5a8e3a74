import argparse
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import types
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import malis
from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.cli import main
from malis.cli.configuration import (
    Training,
    check_configuration,
    parse_override,
    read_configuration,
)
from malis.composite import WindowLoss
from malis.inference import predict
from malis.labels import relabel_components
from malis.segmentation import choose_cut
from malis.training import CosineDecay, PatchDataset, describe, load_volume, train
from malis.training.augmentation import Augmentation
from malis.training.checkpoint import CHECKPOINT, load_model, read
from unet import UNet

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / "malis/cli/sections.toml").read_text()
CONFIGURATION = """
[data]
volumes = ["sample.hdf"]
[split]
train = [0, 4]
validation = [4, 6]
test = [6, 8]
[network]
depth = 2
wf = 2
padding = true
[loss.MalisLoss]
weight = 2.0
window = 16
[loss.AffinityCrossEntropy]
[training]
patch = [32, 32]
batch_size = 2
steps = 6
seed = 3
checkpoint_every = 2
validate_every = 3
augment = false
"""
TABLE = tomllib.loads(CONFIGURATION)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, y, x = np.indices((8, 64, 64))
    labels = ((y // 12) * 10 + x // 12 + 1).astype(np.uint64)
    raw = np.where((y % 12 == 0) | (x % 12 == 0), 30, 200).astype(np.uint8)
    with CremiFile("sample.hdf", "w") as file:
        file.write_raw(Volume(raw, (40.0, 4.0, 4.0)))
        file.write_neuron_ids(Volume(labels, (40.0, 4.0, 4.0)))
    Path("train.toml").write_text(CONFIGURATION)
    return tmp_path


def run(*arguments):
    """Train on the CPU without a bar."""
    return main(["train", "train.toml", *arguments, "--device", "cpu", "--quiet"])


def sum_of_both(offsets):
    """The loss of the configuration: its terms take logits unless told otherwise."""
    windows = WindowLoss(malis.MalisLoss(offsets, from_logits=True), 16)
    return malis.SumLoss([windows, malis.AffinityCrossEntropy(offsets, from_logits=True)], [2, 1])


def weights(path):
    return read(path, CHECKPOINT)["network"]


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class TestTraining:
    def test_other_grey_values_train_the_same_and_the_card_keeps_their_range(self, folder, capsys):
        """12 bits, without attributes: the network and what it predicts are those of 8 bits."""
        with CremiFile("sample.hdf", "r") as file, h5py.File("other.hdf", "w") as other:
            other["raw"] = file.read_raw().load().data.astype(np.uint16) * 16
            other["labels"] = file.read_neuron_ids().load().data
        assert run("bytes.model") == 0
        options = ["--set", 'data.volumes=["other.hdf"]']
        assert run("other.model", *options) == 1
        assert "--resolution" in capsys.readouterr().err
        options += ["data.resolution=[40, 4, 4]"]
        assert run("other.model", *options) == 1
        assert "say which values are black and white" in capsys.readouterr().err
        assert run("other.model", *options, "data.range=[0, 4080]") == 0
        assert_same(weights("bytes.model.checkpoint"), weights("other.model.checkpoint"))
        assert load_model("other.model").card["grey_range"] == [0, 4080]
        assert "grey_range" not in load_model("bytes.model").card
        command = "predict other.hdf out.hdf --checkpoint other.model --resolution 40 4 4 --quiet"
        assert main(command.split()) == 0
        assert main(["predict", "sample.hdf", "same.hdf", "--checkpoint", "bytes.model"]) == 0
        with h5py.File("out.hdf") as out, h5py.File("same.hdf") as same:
            np.testing.assert_array_equal(out["affinities"][...], same["affinities"][...])

    def test_percentiles_are_kept_as_such(self, folder):
        assert run("net.model", "--set", 'data.range=["0.5%", "99.5%"]') == 0
        assert load_model("net.model").card["grey_range"] == ["0.5%", "99.5%"]

    def test_is_the_library_s(self, folder, capsys):
        assert run("net.model") == 0
        volume = load_volume("sample.hdf")
        torch.manual_seed(3)
        network = UNet(depth=2, wf=2, padding=True)
        offsets = malis.nearest_offsets(2)
        loss = sum_of_both(offsets)
        patches = PatchDataset(volume.sections(range(4)), (32, 32), seed=3)
        train(network, loss, patches, steps=6, batch_size=2, learning_rate=CosineDecay(2e-3, 6),
              seed=3, device="cpu", progress=False)  # fmt: skip
        assert_same(weights("net.model.checkpoint"), network.state_dict())

        model = load_model("net.model")
        assert model.offsets == offsets
        network.eval()
        sections = list(np.moveaxis(predict(network, volume.raw[4:6], progress=False), 1, 0))
        inside, threshold, curve = choose_cut(
            sections, [relabel_components(section) for section in volume.labels[4:6]], offsets
        )
        assert model.card["scores"]["agglomeration"] == {
            "threshold": threshold,
            "inside": inside,
            "validation_cremi": curve.cremi[curve.best()],
        }
        assert model.card["split"]["sample.hdf"]["test"] == "range(6, 8)"
        assert model.card["configuration"] == TABLE
        said = capsys.readouterr().out
        assert said.startswith("net.model: 6 steps, loss ")
        score = curve.cremi[curve.best()]
        assert f"validation: CREMI score {score:.4f} at threshold {threshold:.3f}" in said

    def test_a_second_stage_begins_with_the_weights_of_the_first(self, folder):
        assert run("first.model", "--set", "training.steps=2", "loss.MalisLoss.weight=0") == 0
        second = ["network.start=first.model", "training.steps=1", "training.boundary=1"]
        assert run("second.model", "--set", *second) == 0

        network, offsets = load_model("first.model").network, malis.nearest_offsets(2)
        loss = sum_of_both(offsets)
        sections = load_volume("sample.hdf").sections(range(4))
        patches = PatchDataset(sections, (32, 32), boundary=1, seed=3)
        train(network, loss, patches, steps=1, batch_size=2, learning_rate=CosineDecay(2e-3, 1),
              seed=3, device="cpu", progress=False)  # fmt: skip
        assert_same(weights("second.model.checkpoint"), network.state_dict())

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("network.depth=3", "first.model holds another network"),
            ("network.offsets=[[0, -1], [-1, 0]]", r"first.model has the offsets \(\(-1, 0\)"),
            ("network.start=none.model", "none.model"),
            ("network.start=3", "network.start must be the name of a file, got 3"),
        ],
    )
    def test_weights_that_do_not_fit(self, folder, capsys, change, words):
        assert run("first.model", "--set", "training.steps=1") == 0
        assert run("second.model", "--set", "network.start=first.model", change) == 1
        assert re.search(words, capsys.readouterr().err)
        assert not Path("second.model").exists()

    def test_what_comes_out_goes_in(self, folder):
        assert run("net.model", "--set", "training.steps=2") == 0
        command = ["segment", "sample.hdf", "labels.hdf", "--checkpoint", "net.model", "--quiet"]
        assert main(command) == 0
        assert main(["evaluate", "labels.hdf", "sample.hdf"]) == 0

    def test_overrides(self, folder):
        changes = ["training.steps=3", "training.precision=bfloat16", "network.type=PlainCNN",
                   "network={type='PlainCNN', n_layers=2, features=3}", "training.augment=true",
                   "loss.AffinityCrossEntropy.weight=0", "training.patch=[36, 36]",
                   "training.max_gradient_norm=inf", "split.validation=[]"]  # fmt: skip
        assert run("net.model", "--set", *changes, "loss.MalisLoss.window=14") == 0
        configuration = read(Path("net.model.checkpoint"), CHECKPOINT)["configuration"]
        assert configuration["mixed_precision"] is True
        assert list(configuration["loss"]["losses"]) == ["class", "0"]
        assert configuration["loss"]["losses"]["0"]["loss"]["class"] == "MalisLoss"
        assert configuration["dataset"]["augment"] == describe(Augmentation())
        model = load_model("net.model")
        assert type(model.network).__name__ == "PlainCNN"
        assert "scores" not in model.card
        assert model.card["configuration"]["training"]["max_gradient_norm"] == "Infinity"

    def test_losses_take_logits_unless_told_otherwise(self, folder):
        names = "loss.MalisLoss", "loss.AffinityCrossEntropy"
        assert run("a.model") == 0
        assert run("b.model", "--set", *(f"{name}.from_logits=false" for name in names)) == 0
        one, two = (
            read(f"{name}.model.checkpoint", CHECKPOINT)["history"]["training"]["loss"]
            for name in "ab"
        )
        np.testing.assert_allclose(one, two, rtol=1e-4)

    def test_three_dimensions(self, folder):
        changes = ["training.patch=[4, 32, 32]", "training.steps=2",
                   "network.pool_sizes=[[1, 2, 2]]", "loss.MalisLoss.window=[4, 16, 16]",
                   "split.train=[0, 4]", "split.test=[]"]  # fmt: skip
        assert run("net.model", "--set", *changes) == 0
        model = load_model("net.model")
        assert model.offsets == malis.nearest_offsets(3) and model.network.ndim == 3
        assert "threshold" in model.card["scores"]["agglomeration"]

    def test_an_interruption_changes_nothing(self, folder, monkeypatch, capsys):
        assert run("whole.model") == 0
        loaded = PatchDataset.__getitem__
        calls = []

        def interrupted(dataset, index):
            calls.append(index)
            if len(calls) > 2 * 4:
                raise KeyboardInterrupt
            return loaded(dataset, index)

        monkeypatch.setattr(PatchDataset, "__getitem__", interrupted)
        assert run("parts.model") == 130
        assert not Path("parts.model").exists()
        assert read(Path("parts.model.checkpoint"), CHECKPOINT)["step"] == 4
        monkeypatch.setattr(PatchDataset, "__getitem__", loaded)
        unfinished = load_model("parts.model.checkpoint")
        assert unfinished.card["steps"] == 4
        assert "threshold" in unfinished.card["scores"]["agglomeration"]
        network = ["--checkpoint", "parts.model.checkpoint", "--quiet"]
        assert main(["predict", "sample.hdf", "affinities.hdf", *network]) == 0
        assert main(["segment", "sample.hdf", "labels.hdf", *network]) == 0
        assert run("parts.model") == 0
        assert_same(weights("parts.model.checkpoint"), weights("whole.model.checkpoint"))
        assert load_model("parts.model").card == load_model("whole.model").card

    def test_sigterm_saves_what_was_done(self, folder):
        command = [sys.executable, "-m", "malis", "train", "train.toml", "net.model"]
        options = ["--device", "cpu", "--set", "training.steps=100000"]
        process = subprocess.Popen(
            [*command, *options], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            while not Path("net.model.checkpoint").exists():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode not in (0, -signal.SIGTERM)
        step = read("net.model.checkpoint", CHECKPOINT)["step"]
        assert f"net.model.checkpoint keeps the {step} steps that were done" in said
        assert load_model("net.model.checkpoint").card["steps"] == step

    def test_restart_and_overwrite(self, folder, capsys):
        assert run("net.model", "--set", "training.steps=2") == 0
        before = Path("net.model").read_bytes()
        capsys.readouterr()
        assert run("net.model") == 1
        assert capsys.readouterr().err == "malis train: net.model exists; --overwrite replaces it\n"
        assert run("net.model", "--overwrite", "--set", "training.steps=2", "network.wf=3") == 1
        error = capsys.readouterr().err
        assert "belongs to another training (another network: network." in error
        assert error.endswith("; --restart begins anew\n") and error.count("\n") == 1
        assert Path("net.model").read_bytes() == before
        changes = ["--set", "training.steps=2", "network.wf=3"]
        assert run("net.model", "--overwrite", "--restart", *changes) == 0
        assert load_model("net.model").network.last.in_channels == 8

    def test_restart_keeps_the_checkpoint_until_training_begins(self, folder):
        assert run("net.model", "--set", "training.steps=1") == 0
        before = Path("net.model.checkpoint").read_bytes()
        restart = ("--overwrite", "--restart", "--set", "training.steps=1")
        assert run("net.model", *restart, 'data.volumes=["missing.hdf"]') == 1
        assert Path("net.model.checkpoint").read_bytes() == before

    def test_an_input_is_not_replaced(self, folder, capsys):
        for name in ("train.toml", "sample.hdf"):
            assert run(name, "--overwrite") == 1
            assert f"{name} is an input" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "change",
        [["split.train=[2, 4]"], ["network.start=b.model"], ["data.volumes=['other.hdf']"]],
    )
    def test_what_began_with_other_data_or_weights_is_not_continued(self, folder, capsys, change):
        few = ["--set", "training.steps=2"]
        for seed, name in enumerate(("a.model", "b.model")):
            assert run(name, *few, f"training.seed={seed}") == 0
        (folder / "other").mkdir()
        with CremiFile("sample.hdf", "r") as file, CremiFile("other/sample.hdf", "w") as other:
            raw, ids = file.read_raw().load(), file.read_neuron_ids().load()
            raw.data[0, 0, 0] ^= 1
            other.write_raw(raw)
            other.write_neuron_ids(ids)
        change = [one.replace("other.hdf", "other/sample.hdf") for one in change]
        assert run("net.model", *few, "network.start=a.model") == 0
        assert run("net.model", "--overwrite", *few, "network.start=a.model") == 0
        capsys.readouterr()
        assert run("net.model", "--overwrite", *few, "network.start=a.model", *change) == 1
        assert "belongs to another training" in capsys.readouterr().err

    def test_two_processes_by_torchrun(self, folder):
        assert run("alone.model") == 0
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"
        }  # fmt: skip
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = ["--nproc-per-node", "2", "-m", "malis", "train", "train.toml", "both.model"]
        result = subprocess.run(
            [*torchrun, *command, "--device", "cpu"],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("both.model: 6 steps") == 1
        assert result.stderr.count("training: 100%") >= 1
        one, two = (weights(f"{name}.model.checkpoint") for name in ("alone", "both"))
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


class TestTensorboard:
    def test_calls_of_the_writer(self, folder, monkeypatch):
        calls = []

        class Writer:
            def __init__(self, folder, purge_step):
                calls.append((str(folder), purge_step))

            def add_scalar(self, name, value, step):
                calls.append((name, step))

        module = types.ModuleType("torch.utils.tensorboard")
        module.SummaryWriter = Writer
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        assert run("net.model", "--set", "training.steps=3") == 0
        assert calls[0] == ("net.model.tensorboard", 1)
        assert [step for name, step in calls if name == "loss/AffinityCrossEntropy"] == [1, 2, 3]
        assert ("validation/cremi_score", 3) in calls

    def test_without_the_package(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert run("net.model", "--set", "training.steps=1") == 0
        assert {path.name for path in folder.iterdir()} == {
            "sample.hdf", "train.toml", "net.model", "net.model.checkpoint"
        }  # fmt: skip


class TestConfiguration:
    def test_the_example_is_one(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "--example"])
        assert stopped.value.code == 0 and capsys.readouterr().out == EXAMPLE
        example = check_configuration(tomllib.loads(EXAMPLE))
        assert asdict(example.training) == asdict(Training())
        assert set(tomllib.loads(EXAMPLE)["training"]) == set(asdict(Training()))
        assert example.loss.weights == [0.3, 1.0]
        known = ("start", "offsets", "normalise", "n_pairs", "range", "resolution")
        for line in EXAMPLE.splitlines():  # what is commented out must work, too
            if line.startswith("# ") and " = " in line and ":" not in line.partition("=")[0]:
                key = line[2:].partition("#")[0].strip()
                assert key.split(" ")[0] in known, line

    def test_little_is_enough(self):
        table = {"data": {"volumes": ["a.hdf"]}}
        configuration = check_configuration(table)
        assert [type(loss) for loss in configuration.loss.losses] == [malis.MalisLoss]
        assert configuration.split is None and configuration.network is UNet
        assert configuration.arguments == {"ndim": 2, "n_classes": 2}

    def test_offsets_make_channels(self):
        offsets = [[-1, 0], [0, -1], [-9, 0]]
        table = {**TABLE, "network": {"type": "PlainCNN", "offsets": offsets}}
        configuration = check_configuration(table)
        assert configuration.arguments["out_channels"] == 3
        assert configuration.offsets == tuple(map(tuple, offsets))
        np.testing.assert_array_equal(configuration.loss.losses[1].offsets, offsets)

    def test_learning_rate_falls_to_zero_or_not(self):
        assert check_configuration(TABLE).learning_rate == CosineDecay(2e-3, 6)
        constant = {**TABLE, "training": {"schedule": "constant", "learning_rate": 1}}
        assert check_configuration(constant).learning_rate == 1

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("trainng.steps=3", "unknown key trainng (did you mean training?); known are data,"),
            ("training.step=3", "unknown key training.step (did you mean steps?); known are patch"),
            ("data.volume='a'", "unknown key data.volume (did you mean volumes?)"),
            ("network.widht=3", "unknown key network.widht; known are type, start, offsets, depth"),
            ("network.n_classes=3", "unknown key network.n_classes"),
            ("loss.Malis.weight=1", "unknown key loss.Malis (did you mean MalisLoss?)"),
            ("loss.MalisLoss.margn=1", "unknown key loss.MalisLoss.margn (did you mean margin?)"),
            ("training.steps=1.5", "training.steps must be int, got 1.5"),
            ("training.steps=true", "training.steps must be int, got True"),
            ("training.steps=many", "training.steps must be int, got 'many'"),
            ("training.patch=[32, 32, 'a']", "training.patch must be list[int]"),
            ("training.patch=[32]", "training.patch must be [y, x] or [z, y, x], got [32]"),
            ("training.schedule=linear", "training.schedule must be one of cosine, constant"),
            ("training.precision=float16", "training.precision must be one of float32, bfloat16"),
            ("training=3", "training must be a section [training], got 3"),
            ("data={}", "data.volumes is missing"),
            ("data.volumes=[]", "data.volumes names no file"),
            ("network.type=ResNet", "network.type must be one of UNet, PlainCNN, got 'ResNet'"),
            ("network.up_mode=nearest", "[network] up_mode must be"),
            ("network.offsets=[[0, 0]]", "offset 0 is zero"),
            ("network.offsets=[[-1, 0, 0]]", "offsets must have 2 numbers each, one for each axis"),
            ("network.offsets=3", "[network] offsets must have shape (C, ndim)"),
            ("loss.MalisLoss.weight=-1", "loss.MalisLoss.weight must be a number of at least 0"),
            (
                "loss.MalisLoss.normalise=max",
                "[loss.MalisLoss] normalise must be one of none, pass",
            ),
            ("loss.MalisLoss.window=0", "[loss.MalisLoss] size must be at least 1"),
            ("loss={MalisLoss={weight=0}}", "the loss has no term"),
            ("data.volumes.x=3", "data.volumes.x: volumes is no section"),
            ("split={train=[0, 9]}", "split.train is [0, 9], but sample.hdf has 8 sections"),
            ("split.train=[0, 5]", "sections [4] are in both train and validation"),
            ("split.train=[0]", "split.train must be [first, one past the last], got [0]"),
            ("training.patch=[32, 72]", "larger than the volume"),
            ("training.patch=[33, 32]", "33"),
            ("data.volumes=['none.hdf']", "none.hdf does not exist"),
            ("data.volumes=['train.toml']", "train.toml is no volume"),
            ("training.steps=0", "must be at least 1"),
        ],
    )
    def test_what_makes_no_sense_is_one_line(self, folder, capsys, change, words):
        assert run("net.model", "--set", change) == 1
        error = capsys.readouterr().err
        assert error.startswith("malis train: ") and error.count("\n") == 1
        assert words in error, error
        assert not list(folder.glob("net.model*"))

    def test_a_file_that_is_none(self, folder, capsys):
        Path("train.toml").write_text("[data\n")
        assert run("net.model") == 1
        assert "malis train: train.toml: " in capsys.readouterr().err
        assert main(["train", "none.toml", "net.model"]) == 1
        assert "none.toml does not exist; --example prints one" in capsys.readouterr().err

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_files_of_all_editors(self, folder, encoding, newline):
        text = CONFIGURATION.replace("sample.hdf", "völ.hdf").replace("\n", newline)
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        Path("train.toml").write_bytes((mark + text).encode(encoding))
        assert read_configuration("train.toml").data.volumes == ["völ.hdf"]

    def test_another_encoding(self, folder, capsys):
        Path("train.toml").write_bytes(CONFIGURATION.replace("sample", "völ").encode("latin-1"))
        assert run("net.model") == 1
        assert "train.toml: the text is in another encoding than UTF-8" in capsys.readouterr().err

    def test_overrides_are_values_of_toml_or_text(self):
        assert parse_override("a.b=3") == ("a.b", 3)
        assert parse_override("a = [1, 2]") == ("a", [1, 2])
        assert parse_override("a=x=y") == ("a", "x=y")
        for wrong in ("a", "=3"):
            with pytest.raises(argparse.ArgumentTypeError, match="KEY=VALUE"):
                parse_override(wrong)

    def test_the_file_is_not_changed(self, folder):
        read_configuration("train.toml", [("training.steps", 9)])
        assert Path("train.toml").read_text() == CONFIGURATION
