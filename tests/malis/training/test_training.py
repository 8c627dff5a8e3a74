import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from malis import AffinityCrossEntropy, MalisLoss, MaximinLoss, SumLoss, nearest_offsets
from malis.training import CosineDecay, History, choose_device, train
from malis.training.augmentation import Augmentation
from malis.training.batches import batch_indices, load_batches
from malis.training.checkpoint import CHECKPOINT, load_model, read
from malis.training.dataset import LabelledVolume, PatchDataset
from unet import UNet

ROOT = Path(__file__).parents[3]
OFFSETS = nearest_offsets(2)
QUIET = {"progress": False, "device": "cpu"}


def patches(seed=0, **settings):
    """Square cells with dark membranes between them."""
    _, y, x = np.indices((4, 64, 64))
    labels = ((y // 16) * 4 + x // 16 + 1).astype(np.uint64)
    raw = np.where((y % 16 == 0) | (x % 16 == 0), 30, 200).astype(np.uint8)
    volume = LabelledVolume(raw, labels, (40.0, 4.0, 4.0))
    augment = Augmentation(elastic_amplitude=2, elastic_spacing=8, grey_values=None)
    return PatchDataset(volume, (28, 28), (12, 12), augment=augment, seed=seed, **settings)


def network(seed=0, dropout=0.0, **settings):
    torch.manual_seed(seed)
    net = UNet(**({"depth": 2, "wf": 2, "batch_norm": True} | settings))
    return nn.Sequential(nn.Dropout(dropout), net) if dropout else net


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class RandomisedLoss(nn.Module):
    """Random numbers of torch's generator in the loss, as sampled pairs are."""

    def forward(self, affinities, labels):
        return (affinities * torch.rand(affinities.shape)).mean() + MaximinLoss(OFFSETS)(
            affinities, labels
        )


class TestLearning:
    def test_the_loss_falls_and_is_logged(self):
        net = network(batch_norm=False, wf=3)
        history = train(
            net, AffinityCrossEntropy(OFFSETS), patches(), steps=80, learning_rate=1e-2, **QUIET
        )
        loss = history.training["loss"]
        assert np.mean(loss[-10:]) < 0.5 * np.mean(loss[:5])
        assert history.training["step"] == list(range(1, 81))
        assert set(history.training) == {
            "step", "loss", "learning_rate", "gradient_norm",
            "seconds/data", "seconds/network", "seconds/loss",
        }  # fmt: skip
        assert all(len(column) == 80 for column in history.training.values())
        assert min(history.training["seconds/network"]) > 0
        assert History(**json.loads(json.dumps(history.to_dict()))) == history

    def test_one_step_is_gradient_descent_on_the_sigmoid(self):
        net, twin, data = network(batch_norm=False), network(batch_norm=False), patches()
        loss = MalisLoss(OFFSETS)
        train(net, loss, data, steps=1, batch_size=3, learning_rate=0.1,
              optimiser=torch.optim.SGD, **QUIET)  # fmt: skip
        batch = [data[i] for i in batch_indices(0, 1, 3, len(data))]
        raw, labels = (torch.stack(part) for part in zip(*batch, strict=True))
        loss(twin(raw).sigmoid(), labels).backward()
        with torch.no_grad():
            for old, new in zip(twin.parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(old - 0.1 * old.grad, new)

    def test_any_function_is_a_loss(self):
        seen = []

        def own_loss(affinities, labels):
            seen.append((affinities.detach(), labels))
            return affinities.mean()

        train(network(), own_loss, patches(), steps=2, batch_size=3, **QUIET)
        affinities, labels = seen[0]
        assert affinities.shape == (3, 2, 12, 12) and affinities.dtype == torch.float32
        assert affinities.min() > 0 and affinities.max() < 1
        assert labels.shape == (3, 12, 12) and labels.dtype == torch.int64

    def test_terms_of_a_sum_are_logged(self):
        loss = SumLoss([AffinityCrossEntropy(OFFSETS), MalisLoss(OFFSETS)], [0.5, 2.0])
        history = train(network(), loss, patches(), steps=2, **QUIET).training
        total = 0.5 * np.array(history["loss/AffinityCrossEntropy"])
        total += 2 * np.array(history["loss/MalisLoss"])
        np.testing.assert_allclose(history["loss"], total, rtol=1e-6)

    def test_terms_of_one_kind_stay_apart(self):
        loss = SumLoss([MalisLoss(OFFSETS), MalisLoss(OFFSETS, constrained=False)])
        history = train(network(), loss, patches(), steps=1, **QUIET).training
        assert {"loss/MalisLoss 0", "loss/MalisLoss 1"} <= set(history)

    def test_the_loss_that_is_given_is_called(self):
        """A subclass with a forward of its own is used, and so are hooks."""

        class Small(SumLoss):
            def forward(self, affinities, labels):
                return super().forward(affinities, labels) * 0 + 0.001

        loss, calls = Small([AffinityCrossEntropy(OFFSETS), MalisLoss(OFFSETS)]), []
        for module in loss.modules():
            module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
        history = train(network(), loss, patches(), steps=2, **QUIET).training
        assert history["loss"] == pytest.approx([0.001] * 2)
        assert history["gradient_norm"] == [0.0] * 2
        assert min(history["loss/MalisLoss"] + history["loss/AffinityCrossEntropy"]) > 0.01
        assert calls == ["AffinityCrossEntropy", "MalisLoss", "Small"] * 2

    def test_a_loss_may_ask_for_logits(self):
        seen = {}

        class Own(nn.Module):
            def __init__(self, from_logits):
                super().__init__()
                self.from_logits = from_logits

            def forward(self, values, labels):
                seen[self.from_logits] = values.detach()
                return (values.sigmoid() if self.from_logits is True else values).mean()

        nets = [network(batch_norm=False) for _ in range(3)]
        for net, from_logits in zip(nets, (True, False, "yes"), strict=True):
            train(net, Own(from_logits), patches(), steps=1, **QUIET)
        assert seen[True].min() < 0 and seen[True].dtype == torch.float32
        torch.testing.assert_close(seen[True].sigmoid(), seen[False])
        assert torch.equal(seen["yes"], seen[False])
        for first, second in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(first, second)

    def test_sum_equals_its_own_forward(self):
        loss = SumLoss([AffinityCrossEntropy(OFFSETS), MalisLoss(OFFSETS)], [0.5, 2.0])
        first, second = network(), network()
        train(first, loss, patches(), steps=3, **QUIET)
        train(second, lambda a, labels: loss(a, labels), patches(), steps=3, **QUIET)
        assert_same(weights(first), weights(second))

    def test_cross_entropy_then_malis(self, tmp_path):
        net = network()
        train(net, AffinityCrossEntropy(OFFSETS), patches(), steps=5,
              checkpoint=tmp_path / "first.pt", **QUIET)  # fmt: skip
        start = weights(net)
        assert_same(start, read(tmp_path / "first.pt", CHECKPOINT)["network"])
        second = {"steps": 6, "checkpoint": tmp_path / "second.pt", "checkpoint_every": 2} | QUIET
        train(net, MalisLoss(OFFSETS), patches(), **second)
        # The second phase starts from the first one's weights, and resumes from its own.
        twin = network()
        twin.load_state_dict(start)
        train(twin, MalisLoss(OFFSETS), patches(), steps=6, **QUIET)
        assert_same(weights(net), weights(twin))

    def test_learning_rate_may_depend_on_the_step(self):
        history = train(
            network(), AffinityCrossEntropy(OFFSETS), patches(), steps=4,
            learning_rate=lambda step: 0.1 / step, **QUIET,
        )  # fmt: skip
        np.testing.assert_allclose(history.training["learning_rate"], [0.1, 0.05, 0.1 / 3, 0.025])

    def test_a_cosine_falls_over_all_stages(self):
        rate = CosineDecay(0.1, 10)
        assert rate(1) == 0.1 and rate(6) == pytest.approx(0.05) and rate(11) == pytest.approx(0)
        rates = [rate(step) for step in range(1, 12)]
        assert rates == sorted(rates, reverse=True)
        assert [CosineDecay(0.1, 10, done=4)(step) for step in (1, 2)] == [rate(5), rate(6)]

    @pytest.mark.parametrize("first", [0.1, 0.0])
    def test_groups_of_parameters_keep_rates_of_their_own(self, tmp_path, first):
        """The first layer is frozen and the last learns at a tenth, also after an interruption."""

        def grouped(parameters, lr):
            frozen, *others, last = parameters
            rates = [{"params": [frozen], "lr": 0}, {"params": [last], "lr": lr / 10}]
            return torch.optim.SGD([*rates, {"params": others}], lr=lr)

        def slope(affinities, labels):
            return affinities.sum()

        settings = {"learning_rate": lambda step: first if step == 1 else 0.1, "batch_size": 1}
        settings |= {"optimiser": grouped, "checkpoint": tmp_path / "a.pt"} | QUIET
        net = network(batch_norm=False)
        start = next(iter(weights(net).values()))
        train(net, slope, patches(), steps=2, **settings)
        before = weights(net)
        resumed = network(seed=4, batch_norm=False)
        train(resumed, slope, patches(), steps=3, **settings)
        data = patches()
        raw = data[batch_indices(0, 3, 1, len(data))[0]][0][None]
        net.zero_grad()
        net(raw).sigmoid().sum().backward()
        after = weights(resumed)
        names = list(after)
        assert torch.equal(after[names[0]], start)
        for name, rate in ((names[1], 0.1), (names[-1], 0.01)):
            step = rate * net.get_parameter(name).grad
            torch.testing.assert_close(after[name], before[name] - step)

    def test_long_gradients_are_shortened(self):
        def step_length(limit):
            net = network(batch_norm=False)
            before = weights(net)
            train(net, lambda a, _: 100 * a.sum(), patches(), steps=1, learning_rate=1.0,
                  optimiser=torch.optim.SGD, max_gradient_norm=limit, **QUIET)  # fmt: skip
            return math.sqrt(sum(((weights(net)[n] - v) ** 2).sum() for n, v in before.items()))

        assert step_length(math.inf) > 10
        assert step_length(0.5) == pytest.approx(0.5, rel=1e-3)

    def test_mixed_precision_reaches_the_loss_as_float32(self):
        dtypes = []

        def own_loss(affinities, labels):
            dtypes.append(affinities.dtype)
            return AffinityCrossEntropy(OFFSETS)(affinities, labels)

        net, full = network(batch_norm=False, wf=3), network(batch_norm=False, wf=3)
        settings = {"steps": 30, "learning_rate": 1e-2} | QUIET
        mixed = train(net, own_loss, patches(), mixed_precision=True, **settings)
        exact = train(full, own_loss, patches(), **settings)
        assert set(dtypes) == {torch.float32}
        assert mixed.training["loss"][0] != exact.training["loss"][0]
        assert mixed.training["loss"][-1] == pytest.approx(exact.training["loss"][-1], rel=0.1)
        assert {p.dtype for p in net.parameters()} == {torch.float32}

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_channels_last_changes_only_the_memory(self, ndim):
        labels = (np.indices((20, 20, 20)) // 5).sum(0).astype(np.uint64) + 1
        volume = LabelledVolume((labels * 10).astype(np.uint8), labels, (10.0, 10.0, 10.0))
        settings = {"ndim": ndim, "n_classes": ndim, "padding": True}
        nets = network(**settings), network(**settings)
        losses, formats = [], []
        for net, last in zip(nets, (False, True), strict=True):
            net.last.register_forward_pre_hook(lambda _, x: formats.append(x[0].stride(1)))
            data, loss = PatchDataset(volume, (16,) * ndim), MalisLoss(nearest_offsets(ndim))
            history = train(net, loss, data, steps=3, channels_last=last, **QUIET)
            losses.append(history.training["loss"])
        assert formats == [16**ndim] * 3 + [1] * 3
        np.testing.assert_allclose(*losses, rtol=1e-3)

    def test_three_dimensions(self):
        labels = (np.indices((20, 20, 20)) // 5).sum(0).astype(np.uint64) + 1
        volume = LabelledVolume((labels * 10).astype(np.uint8), labels, (10.0, 10.0, 10.0))
        net = network(ndim=3, n_classes=3, pool_sizes=[(1, 2, 2)])
        size = net.output_size((16, 20, 20))
        data = PatchDataset(volume, (16, 20, 20), size)
        history = train(net, MalisLoss(nearest_offsets(3)), data, steps=2, batch_size=1, **QUIET)
        assert np.isfinite(history.training["loss"]).all()


class TestValidation:
    def test_is_called_in_evaluation_mode_and_logged(self):
        net, calls = network(), []

        def validate(network):
            calls.append((network.training, torch.is_grad_enabled()))
            return {"rand": 0.5, "voi": torch.tensor(len(calls))}

        history = train(
            net, AffinityCrossEntropy(OFFSETS), patches(), steps=5, validate=validate,
            validate_every=2, **QUIET,
        )  # fmt: skip
        assert history.validation == {"step": [2, 4, 5], "rand": [0.5] * 3, "voi": [1, 2, 3]}
        assert calls == [(False, False)] * 3

    def test_does_not_change_the_training(self):
        plain, watched = network(dropout=0.3), network(dropout=0.3)
        train(plain, RandomisedLoss(), patches(), steps=4, **QUIET)
        train(watched, RandomisedLoss(), patches(), steps=4, validate_every=1,
              validate=lambda net: {"x": torch.rand(())}, **QUIET)  # fmt: skip
        assert_same(weights(plain), weights(watched))

    def test_an_error_in_it_loses_no_training(self, tmp_path):
        """The validation that the error took is made up for."""
        calls, path = [], tmp_path / "a.pt"

        def validate(net):
            return {"bias": float(net.last.bias[0])}

        def failing(net):
            calls.append(None)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return validate(net)

        whole, resumed, loss = network(), network(seed=5), AffinityCrossEntropy(OFFSETS)
        settings = {"steps": 5, "checkpoint_every": 2, "validate_every": 2} | QUIET
        expected = train(whole, loss, patches(), validate=validate, **settings).validation
        settings |= {"validate": failing, "checkpoint": path}
        with pytest.raises(RuntimeError, match="out of memory"):
            train(network(), loss, patches(), **settings)
        saved = read(path, CHECKPOINT)
        assert saved["step"] == 4 and saved["history"]["validation"]["step"] == [2]
        assert train(resumed, loss, patches(), **settings).validation == expected
        assert_same(weights(whole), weights(resumed))
        assert read(path, CHECKPOINT)["history"]["validation"] == expected


class TestRepeating:
    def test_same_seed_same_weights(self):
        nets = [network(dropout=0.3) for _ in range(3)]
        for net, seed in zip(nets, (1, 1, 2), strict=True):
            torch.manual_seed(int(time.time() * 1e6) % 2**32)  # whatever was before
            train(net, RandomisedLoss(), patches(), steps=4, seed=seed, **QUIET)
        assert_same(weights(nets[0]), weights(nets[1]))
        assert not torch.equal(nets[0][1].last.weight, nets[2][1].last.weight)

    def test_torch_s_random_state_is_given_back(self):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        net = UNet(depth=2, wf=2)
        torch.manual_seed(7)
        train(net, RandomisedLoss(), patches(), steps=2, **QUIET)
        assert torch.equal(torch.rand(3), expected)

    def test_number_of_workers_does_not_matter(self):
        nets = [network() for _ in range(3)]
        for net, workers in zip(nets, (0, 1, 2), strict=True):
            train(net, MalisLoss(OFFSETS), patches(), steps=4, num_workers=workers, **QUIET)
        assert_same(weights(nets[0]), weights(nets[1]))
        assert_same(weights(nets[0]), weights(nets[2]))

    @pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
    def test_resuming_equals_not_stopping(self, tmp_path, optimiser):
        settings = {"optimiser": optimiser, "learning_rate": lambda s: 1e-2 / s} | QUIET
        whole, parts = network(dropout=0.3), network(dropout=0.3)
        history = train(whole, RandomisedLoss(), patches(), steps=9, **settings)
        settings["checkpoint"] = tmp_path / "a.pt"
        train(parts, RandomisedLoss(), patches(), steps=4, **settings)
        train(parts, RandomisedLoss(), patches(), steps=4, **settings)  # nothing left to do
        fresh = network(seed=5, dropout=0.3)
        resumed = train(fresh, RandomisedLoss(), patches(), steps=9, num_workers=1, **settings)
        assert_same(weights(whole), weights(fresh))
        assert resumed.training["loss"] == history.training["loss"]
        assert resumed.training["step"] == list(range(1, 10))

    def test_numbers_of_numpy_can_be_read_again(self, tmp_path):
        settings = {
            "learning_rate": lambda step: 1e-3 * np.cos(step / 100),
            "optimiser": partial(torch.optim.Adam, betas=(np.float64(0.9), np.float64(0.99))),
            "validate": lambda net: {"score": np.float32(0.5)},
            "max_gradient_norm": np.float64(2),
        }
        whole, parts = network(), network()
        train(whole, AffinityCrossEntropy(OFFSETS), patches(), steps=4, **settings, **QUIET)
        settings["checkpoint"] = tmp_path / "a.pt"
        for steps in (np.int64(2), 4):
            train(parts, AffinityCrossEntropy(OFFSETS), patches(), steps=steps, **settings, **QUIET)
        assert_same(weights(whole), weights(parts))

    def test_a_compiled_network_has_the_checkpoint_of_the_network(self, tmp_path):
        settings = {"checkpoint": tmp_path / "a.pt"} | QUIET
        compiled, loss = torch.compile(network(), backend="eager"), AffinityCrossEntropy(OFFSETS)
        train(compiled, loss, patches(), steps=2, **settings)
        resumed = train(network(seed=5), loss, patches(), steps=3, **settings)
        assert resumed.training["step"] == [1, 2, 3]

    def test_killed_at_any_moment(self, tmp_path):
        # A checkpoint after every step: a kill often falls into the writing of one.
        path, steps = tmp_path / "a.pt", 100_000
        script = (
            "import sys, torch\n"
            f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
            f"torch.set_num_threads({torch.get_num_threads()})\n"
            "from test_training import *\n"
            "train(network(seed=int(sys.argv[1])), RandomisedLoss(), patches(),"
            f" steps={steps}, checkpoint={str(path)!r}, checkpoint_every=1, **QUIET)\n"
        )
        reached = 0
        for attempt in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(attempt)], stderr=subprocess.PIPE, text=True
            )
            try:
                while not path.exists() or read(path, CHECKPOINT)["step"] < reached + 3:
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.05)
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            assert process.returncode == -signal.SIGKILL
            reached = read(path, CHECKPOINT)["step"]
        whole, resumed = network(), network(seed=9)
        settings = {"steps": reached + 3} | QUIET
        train(whole, RandomisedLoss(), patches(), **settings)
        history = train(resumed, RandomisedLoss(), patches(), checkpoint=path, **settings)
        assert_same(weights(whole), weights(resumed))
        assert history.training["step"] == list(range(1, reached + 4))
        assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


class Ending(AffinityCrossEntropy):
    """A loss in whose third step a signal comes."""

    def __init__(self, number, times=1):
        super().__init__(OFFSETS)
        self._left, self._number, self._times = 3, number, times

    def forward(self, affinities, labels):
        self._left -= 1
        for _ in range(self._times if self._left == 0 else 0):
            os.kill(os.getpid(), self._number)
        return super().forward(affinities, labels)


class TestSignals:
    SETTINGS = {"steps": 6, "checkpoint_every": 100} | QUIET

    def ends(self, error, loss, path, **settings):
        before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(error) as caught:
            train(network(), loss, patches(), checkpoint=path, **self.SETTINGS, **settings)
        assert before == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        return caught.value

    def continues(self, path, step, loss=None, **settings):
        assert read(path, CHECKPOINT)["step"] == step
        whole, resumed = network(), network(seed=5)
        loss = loss or Ending(signal.SIGTERM, times=0)
        expected = train(whole, loss, patches(), **self.SETTINGS, **settings)
        history = train(resumed, loss, patches(), checkpoint=path, **self.SETTINGS, **settings)
        assert_same(weights(whole), weights(resumed))
        assert history.validation == expected.validation

    @pytest.mark.parametrize("times", [1, 3])
    def test_a_step_is_ended_and_saved(self, tmp_path, times):
        path = tmp_path / "a.pt"
        error = self.ends(SystemExit, Ending(signal.SIGTERM, times), path)
        assert error.code == 128 + signal.SIGTERM
        self.continues(path, 3)

    def test_ctrl_c(self, tmp_path):
        path = tmp_path / "a.pt"
        self.ends(KeyboardInterrupt, Ending(signal.SIGINT), path)
        self.continues(path, 3)

    def test_without_a_checkpoint_it_ends_all_the_same(self):
        with pytest.raises(SystemExit):
            train(network(), Ending(signal.SIGTERM), patches(), steps=6, **QUIET)

    def test_during_a_validation(self, tmp_path):
        """It is not waited for, and made up for."""
        calls, path = [], tmp_path / "a.pt"

        def validate(net):
            calls.append(None)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            return {"bias": float(net.last.bias[0])}

        start = time.monotonic()
        loss = AffinityCrossEntropy(OFFSETS)
        self.ends(SystemExit, loss, path, validate=validate, validate_every=2)
        assert time.monotonic() - start < 30
        self.continues(path, 4, loss, validate=validate, validate_every=2)

    def test_while_a_checkpoint_is_written(self, tmp_path, monkeypatch):
        path, fsync, calls = tmp_path / "a.pt", os.fsync, []

        def signalled(descriptor):
            calls.append(descriptor)
            if len(calls) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", signalled)
        loss = Ending(signal.SIGTERM, times=0)
        self.ends(SystemExit, loss, path, validate_every=6, validate=lambda net: {})
        assert read(path, CHECKPOINT)["step"] == 6

    def test_a_handler_of_the_program_decides(self, tmp_path):
        steps = []
        before = signal.signal(signal.SIGTERM, lambda *_: steps.append(len(steps)))
        try:
            loss = Ending(signal.SIGTERM)
            history = train(network(), loss, patches(), **self.SETTINGS)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert steps == [0] and len(history.training["step"]) == 6

    def test_a_cluster_ends_the_processes_that_load_too(self, tmp_path):
        path = tmp_path / "a.pt"
        script = (
            "import sys, torch\n"
            f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
            "from test_training import *\n"
            "train(network(), AffinityCrossEntropy(OFFSETS), patches(), steps=100_000,"
            f" checkpoint={str(path)!r}, checkpoint_every=3, num_workers=2, **QUIET)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True,
            start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            while not path.exists():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == 128 + signal.SIGTERM
        history = read(path, CHECKPOINT)["history"]["training"]
        assert history["step"] == list(range(1, read(path, CHECKPOINT)["step"] + 1))

    def test_in_a_thread_signals_are_left_alone(self):
        def work():
            train(network(), AffinityCrossEntropy(OFFSETS), patches(), steps=1, **QUIET)
            done.append(True)

        done = []
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert done


class TestModelsOfCheckpoints:
    def model(self, history):
        arguments = {"depth": 2, "wf": 2, "batch_norm": True}
        card = {"steps": len(history.training.get("step", [])), **history.to_dict()["validation"]}
        return {"arguments": arguments, "offsets": OFFSETS, "card": card}

    def test_an_unfinished_training_can_be_used(self, tmp_path):
        path, net = tmp_path / "a.pt", network()
        with pytest.raises(SystemExit):
            train(net, Ending(signal.SIGTERM), patches(), steps=6, checkpoint=path,
                  model=self.model, validate=lambda net: {"score": 0.5}, validate_every=2,
                  **QUIET)  # fmt: skip
        found = load_model(path)
        assert found.offsets == OFFSETS and not found.network.training
        assert found.card == {"steps": 3, "step": [2], "score": [0.5]}
        assert_same(weights(found.network), weights(net))

    def test_one_that_does_not_tell_its_network(self, tmp_path):
        settings = {"steps": 1, "checkpoint": tmp_path / "a.pt"} | QUIET
        train(network(), AffinityCrossEntropy(OFFSETS), patches(), **settings)
        with pytest.raises(ValueError, match="checkpoint that does not say how"):
            load_model(tmp_path / "a.pt")

    def test_what_is_wrong_is_said_before_the_first_step(self, tmp_path):
        with pytest.raises(ValueError, match="is another architecture"):
            train(network(wf=3), AffinityCrossEntropy(OFFSETS), None, steps=1, model=self.model,
                  checkpoint=tmp_path / "a.pt", **QUIET)  # fmt: skip

    def test_it_does_not_change_the_training(self, tmp_path):
        plain, told = network(dropout=0.0), network(dropout=0.0)
        train(plain, RandomisedLoss(), patches(), steps=3, **QUIET)
        train(told, RandomisedLoss(), patches(), steps=3, checkpoint=tmp_path / "a.pt",
              checkpoint_every=1, model=self.model, **QUIET)  # fmt: skip
        assert_same(weights(plain), weights(told))


class TestRefusals:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "a.pt"
        train(
            network(), AffinityCrossEntropy(OFFSETS), patches(), steps=3, checkpoint=path, **QUIET
        )
        return path

    def refused(self, path, error, words, net=None, loss=None, data=None, **settings):
        before, net = path.read_bytes(), net or network(seed=3)
        start = weights(net)
        arguments = {"steps": 6, "checkpoint": path} | QUIET | settings
        with pytest.raises(error, match=words):
            train(net, loss or AffinityCrossEntropy(OFFSETS), data or patches(), **arguments)
        assert path.read_bytes() == before
        assert_same(start, weights(net))

    def test_what_is_not_asked_to_go_on(self, path):
        self.refused(path, FileExistsError, "resume=True continues it", resume=False)

    def test_another_architecture(self, path):
        words = (
            r"another network: network.down_path.0.block.0.out_channels was 4, is 8 and \d+ more"
        )
        self.refused(path, ValueError, words, net=network(wf=3))
        self.refused(path, ValueError, "another network", net=network(pool_sizes=[(1, 2)]))

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"batch_size": 2}, "batch_size was 4, is 2"),
            ({"learning_rate": 0.5}, "learning_rate was 0.0001, is 0.5"),
            ({"seed": 1}, "seed was 0, is 1"),
            ({"optimiser": torch.optim.SGD}, "optimiser was .*Adam.*, is .*SGD"),
            ({"max_gradient_norm": 1.0}, "max_gradient_norm"),
            ({"mixed_precision": True}, "mixed_precision"),
            ({"channels_last": True}, "channels_last was False, is True"),
            ({"loss": MalisLoss(OFFSETS)}, "loss was AffinityCrossEntropy, is MalisLoss"),
            ({"data": patches(seed=2)}, "dataset.seed was 0, is 2"),
        ],
    )
    def test_another_configuration(self, path, settings, words):
        self.refused(path, ValueError, words, **settings)

    def test_a_checkpoint_that_is_further(self, path):
        self.refused(path, ValueError, "at step 3, beyond the 2 asked for", steps=2)

    def test_a_damaged_checkpoint(self, path):
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(path, ValueError, "damaged")

    def test_a_checkpoint_of_an_earlier_version(self, path):
        content = read(path, CHECKPOINT)
        torch.save(content | {"kind": "malis checkpoint 1", "configuration": {}}, path)
        self.refused(path, ValueError, "a.pt is a checkpoint of an earlier version")

    def test_a_setting_that_there_is_not(self):
        with pytest.raises(TypeError, match="'stepz'"):
            train(network(), AffinityCrossEntropy(OFFSETS), patches(), stepz=3)

    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="folder"):
            train(network(), AffinityCrossEntropy(OFFSETS), patches(), steps=1,
                  checkpoint=tmp_path / "none" / "a.pt", **QUIET)  # fmt: skip

    def test_labels_of_another_size(self):
        data = TensorDataset(torch.rand(4, 1, 28, 28), torch.ones(4, 28, 28, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"\(28, 28\) voxels into \(12, 12\).*output_size"):
            train(network(), AffinityCrossEntropy(OFFSETS), data, steps=1, **QUIET)

    def test_no_steps(self):
        with pytest.raises(ValueError, match="at least 1"):
            train(network(), AffinityCrossEntropy(OFFSETS), patches(), steps=0, **QUIET)


class TestAccidents:
    def diverges(self, net, loss, tmp_path, words):
        states = [weights(net)]

        def watch(network):
            states.append(weights(network))
            return {}

        path = tmp_path / "a.pt"
        with pytest.raises(FloatingPointError, match=words):
            train(net, loss, patches(), steps=10, checkpoint=path, checkpoint_every=2,
                  validate=watch, validate_every=1, **QUIET)  # fmt: skip
        assert_same(states[-1], weights(net))
        return states, read(path, CHECKPOINT) if path.exists() else None

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite(self, tmp_path, value):
        calls = []

        def loss(affinities, labels):
            calls.append(None)
            return affinities.mean() * (value if len(calls) == 4 else 1)

        states, saved = self.diverges(
            network(batch_norm=False), loss, tmp_path, rf"step 4: loss = {value}; .*a.pt keeps"
        )
        assert len(states) == 4 and saved["step"] == 2
        assert_same(states[2], saved["network"])

    def test_a_term_that_is_not_finite_is_named(self, tmp_path):
        class Bad(nn.Module):
            def forward(self, affinities, labels):
                return affinities.mean() * math.nan

        loss = SumLoss([AffinityCrossEntropy(OFFSETS), Bad()])
        self.diverges(network(batch_norm=False), loss, tmp_path, "step 1: .*loss/Bad = nan")

    def test_a_gradient_that_is_not_finite(self, tmp_path):
        # The loss is finite, the slope of its root at 0 is not.
        self.diverges(
            network(batch_norm=False),
            lambda a, labels: (a - a.detach()).sum().abs().sqrt(),
            tmp_path,
            "step 1: loss = 0, gradient_norm = nan",
        )

    def test_a_network_that_is_not_finite(self, tmp_path):
        net = network(batch_norm=False)
        with torch.no_grad():
            net.last.bias[0] = math.nan
        with pytest.raises(FloatingPointError, match="step 1: the network's output is not finite"):
            train(net, MalisLoss(OFFSETS), patches(), steps=2, **QUIET)

    def test_the_buffers_of_a_network_stay_finite(self):
        net = network(batch_norm=True)
        before = weights(net)

        class Endless(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                raw, labels = patches()[index]
                return raw * math.inf, labels

        with pytest.raises(FloatingPointError, match="step 1"):
            train(net, MalisLoss(OFFSETS), Endless(), steps=1, batch_size=2, **QUIET)
        assert_same(before, weights(net))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_unreadable_patch(self, tmp_path, workers):
        data, path = Unreadable(), tmp_path / "a.pt"
        with pytest.raises(OSError, match="unreadable sector") as caught:
            train(network(), AffinityCrossEntropy(OFFSETS), data, steps=10, batch_size=2,
                  num_workers=workers, checkpoint=path, checkpoint_every=1, **QUIET)  # fmt: skip
        assert caught.value.__notes__ == ["while the batch of training step 6 was loaded"]
        assert read(path, CHECKPOINT)["step"] == 5

    def test_a_full_disk_keeps_the_last_checkpoint(self, tmp_path, monkeypatch):
        path, fsync, calls = tmp_path / "a.pt", os.fsync, []

        def failing(descriptor):
            calls.append(descriptor)
            if len(calls) > 4:  # a file and its folder for each checkpoint
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match=r"a.pt cannot be written .*earlier file is kept"):
            train(network(), AffinityCrossEntropy(OFFSETS), patches(), steps=10, checkpoint=path,
                  checkpoint_every=2, **QUIET)  # fmt: skip
        monkeypatch.undo()
        whole, resumed = network(), network()
        train(whole, AffinityCrossEntropy(OFFSETS), patches(), steps=10, **QUIET)
        assert read(path, CHECKPOINT)["step"] == 4
        train(resumed, AffinityCrossEntropy(OFFSETS), patches(), steps=10, checkpoint=path, **QUIET)
        assert_same(weights(whole), weights(resumed))


class Unreadable(Dataset):
    """Patches of which one cannot be read: the one that comes in step 6 of batches of two."""

    def __init__(self):
        self.good, self.bad = patches(length=50), batch_indices(0, 6, 2, 50)[1]

    def __len__(self):
        return len(self.good)

    def __getitem__(self, index):
        if index == self.bad:
            raise OSError("unreadable sector")
        return self.good[index]


class TestBatches:
    def test_every_item_once_before_any_again(self):
        places = [i for step in range(1, 8) for i in batch_indices(3, step, 3, 7)]
        epochs = np.reshape(places, (3, 7))
        assert (np.sort(epochs) == np.arange(7)).all()
        assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()

    def test_batches_larger_than_the_dataset(self):
        assert sorted(batch_indices(0, 1, 6, 3)) == [0, 0, 1, 1, 2, 2]

    def test_seed_and_step_decide(self):
        first = batch_indices(0, 5, 4, 100)
        assert first == batch_indices(0, 5, 4, 100)
        assert first != batch_indices(1, 5, 4, 100) and first != batch_indices(0, 6, 4, 100)

    def test_loading_can_start_anywhere(self):
        data = patches()
        all_steps = {step: raw for step, raw, _ in load_batches(data, range(1, 5), 2)}
        later = {step: raw for step, raw, _ in load_batches(data, range(3, 5), 2)}
        assert list(all_steps) == [1, 2, 3, 4] and list(later) == [3, 4]
        assert all(torch.equal(raw, all_steps[step]) for step, raw in later.items())


def test_what_a_checkpoint_cannot_tell_apart_is_logged(tmp_path, caplog):
    def own_loss(affinities, labels):
        return affinities.mean()

    settings = {"steps": 1, "checkpoint": tmp_path / "a.pt"} | QUIET
    train(network(), own_loss, patches(), **settings)
    assert "a.pt is continued, it cannot tell whether the loss is another one" in caplog.text
    caplog.clear()
    settings["checkpoint"] = tmp_path / "b.pt"
    augmented = patches()
    augmented.augment = Augmentation(elastic_amplitude=2, elastic_spacing=8)
    train(network(), AffinityCrossEntropy(OFFSETS), augmented, **settings)
    train(network(), own_loss, patches(), steps=1, **QUIET)  # nothing to be continued
    assert not caplog.records


def test_device_is_one_that_works():
    assert torch.ones(2, device=choose_device()).sum() == 2
