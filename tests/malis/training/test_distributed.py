import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import SETTINGS, both_losses, network, patches, weights

from malis.training import distributed, train
from malis.training.batches import load_batches
from malis.training.checkpoint import CHECKPOINT, read

ROOT = Path(__file__).parents[3]
WORKER = ROOT / "tests/helpers/distributed_worker.py"


def launch(task, folder):
    """Start two processes as a user does."""
    paths = os.pathsep.join(map(str, (ROOT, WORKER.parent)))
    environment = os.environ | {
        "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*torchrun, "--nproc-per-node", "2", str(WORKER), str(task), str(folder)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, limit=300):
    """Wait for torchrun; it must never hang."""
    try:
        return process.communicate(timeout=limit)[0]
    finally:
        process.kill()


def assert_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **tolerance)


def assert_same(first, second):
    assert_close(first, second, rtol=0, atol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def found(folder):
    """What the two processes found."""
    process = launch("scenarios", folder)
    output = finish(process)
    assert process.returncode == 0, output
    return [torch.load(folder / f"found{number}.pt", weights_only=True) for number in (0, 1)]


def alone(steps, **settings):
    """Train with the joint batch in this process."""
    net = network()
    history = train(net, both_losses(), patches(), steps=steps, **SETTINGS, **settings)
    return weights(net), history


class TestTwoProcesses:
    def test_gradient_is_that_of_the_joint_batch(self, found):
        # One step of plain gradient descent with a rate of 1: weights differ by the gradient.
        expected, _ = alone(1, optimiser=torch.optim.SGD, learning_rate=1.0)
        start = weights(network())
        for one in found:
            for name, value in one["one step"].items():
                gradient = start[name] - expected[name]
                assert gradient.abs().max() > 1e-4
                torch.testing.assert_close(start[name] - value, gradient, rtol=1e-4, atol=1e-6)

    def test_training_is_that_of_one_process(self, found):
        expected, history = alone(6)
        assert_same(found[0]["weights"], found[1]["weights"])
        assert_close(found[0]["weights"], expected, rtol=1e-3, atol=1e-5)
        for one in found:
            np.testing.assert_allclose(one["loss"], history.training["loss"], rtol=1e-4)

    def test_resuming_equals_not_stopping(self, found):
        for one in found:
            assert_same(one["weights"], one["resumed"])
            assert one["resumed loss"] == one["loss"]

    def test_one_process_may_go_on(self, found, folder):
        path = folder / "whole.pt"
        content = read(path, CHECKPOINT)
        assert content["step"] == 6
        assert_same(content["network"], found[0]["weights"])
        net = network()
        history = train(net, both_losses(), patches(), steps=8, checkpoint=path, **SETTINGS)
        assert history.training["step"] == list(range(1, 9))
        assert_close(weights(net), alone(8)[0], rtol=1e-3, atol=1e-5)

    def test_the_first_alone_writes_logs_and_validates(self, found, folder):
        assert found[0]["validation"] == {"step": [3, 6], "process": [0.0, 0.0]}
        assert found[1]["validation"] == {} and found[1]["logged"] == []
        steps = [step for step, _ in found[0]["logged"]]
        assert steps == [1, 2, 3, 3, 4, 5, 6, 6]
        assert found[0]["logged"][3] == (3, ["validation/process"])
        assert {"loss", "loss/MalisLoss", "gradient_norm"} <= set(found[0]["logged"][0][1])
        leftovers = {file.name for file in folder.glob(".*")}
        assert not leftovers and not (folder / "none.pt").exists()

    def test_mixed_precision(self, found):
        assert_same(found[0]["mixed"], found[1]["mixed"])
        _, history = alone(2, mixed_precision=True)
        np.testing.assert_allclose(found[0]["mixed loss"], history.training["loss"], rtol=1e-2)
        assert found[0]["mixed loss"] != found[0]["loss"][:2]
        assert {value.dtype for value in found[0]["mixed"].values()} == {torch.float32}

    def test_batch_norm_keeps_the_processes_together(self, found):
        assert_same(found[0]["batch norm"], found[1]["batch norm"])

    def test_random_numbers_differ_between_processes(self, found):
        assert not set(found[0]["drawn"]) & set(found[1]["drawn"])
        torch.manual_seed(int(np.random.SeedSequence([0, 1]).generate_state(1)[0]))
        assert found[0]["drawn"][0] == torch.rand(()).item()  # as in a training by one process

    def test_a_loss_that_is_not_finite_in_one_stops_both(self, found):
        for one in found:
            assert one["nan"].startswith("FloatingPointError: training diverged in step 3: loss")
        assert_same(found[0]["after nan"], found[1]["after nan"])

    def test_shares_that_are_not_equal(self, found):
        for one in found:
            assert "batch_size 3 is for all processes together" in one["unequal"]

    def test_a_checkpoint_that_one_does_not_see(self, found):
        for one in found:
            assert "the processes disagree about the step at which" in one["unseen"]
            assert one["unseen"].endswith("[6, 0]")


def test_one_process_that_dies_ends_the_run(tmp_path):
    process, path = launch(100_000, tmp_path), tmp_path / "endless.pt"
    try:
        while not path.exists() or read(path, CHECKPOINT)["step"] < 3:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        victim = json.loads((tmp_path / "pid1.json").read_text())
        os.kill(victim, signal.SIGKILL)
        output = finish(process)
    finally:
        process.kill()
    assert process.returncode == 1 and "SIGKILL" in output
    survivor = json.loads((tmp_path / "pid0.json").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(survivor, 0)
    reached = read(path, CHECKPOINT)["step"]
    copy = shutil.copy(path, tmp_path / "copy.pt")
    process = launch(reached + 3, tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    content = read(path, CHECKPOINT)
    assert content["history"]["training"]["step"] == list(range(1, reached + 4))
    # From the same step on, as rounding makes trainings part that are long or much interrupted.
    expected, _ = alone(reached + 3, checkpoint=copy)
    assert_close(content["network"], expected, rtol=1e-3, atol=1e-5)


def test_shares_make_up_the_batch():
    data, steps = patches(), range(3, 6)
    whole = [raw for _, raw, _ in load_batches(data, steps, 4)]
    parts = [
        [raw for _, raw, _ in load_batches(data, steps, 4, share=slice(number, None, 2))]
        for number in (0, 1)
    ]
    for joint, even, odd in zip(whole, *parts, strict=True):
        assert torch.equal(joint[0::2], even) and torch.equal(joint[1::2], odd)


def test_without_torchrun_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with distributed.process_group() as device:
        assert device is None
        assert (distributed.rank(), distributed.size()) == (0, 1)
        assert distributed.share(3) == slice(0, None, 1)
        assert distributed.mean({"a": 2.0}, torch.device("cpu")) == {"a": 2.0}
    net = network()
    assert distributed.replicate(net) is net
