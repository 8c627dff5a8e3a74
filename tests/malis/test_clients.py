"""The losses in other people's loops: mixed precision, Lightning, compilers, several processes."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_worker import batch, network, readme_loss, step
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from malis.training import load_model
from unet import UNet

ROOT = Path(__file__).parents[2]


def cells(n=40, size=32, seed=0):
    """Three large cells a patch, so bright that a young network takes all edges for inner ones."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    raw, labels = [], []
    for _ in range(n):
        centres = rng.random((3, 2)) * size
        distances = np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1])
        nearest = np.sort(distances, axis=-1)
        membrane = nearest[..., 1] - nearest[..., 0] < 2
        raw.append(np.where(membrane, 5, 7) + rng.normal(scale=0.3, size=y.shape))
        labels.append(distances.argmin(-1) + 1)
    return torch.from_numpy(np.stack(raw)).float()[:, None], torch.from_numpy(np.stack(labels))


def mean_loss(dtype, batch_norm):
    """Train by the loop of the README under autocast; the mean of steps 100 to 120, three seeds."""
    raw, labels = cells()
    losses = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = UNet(depth=2, wf=3, padding=True, batch_norm=batch_norm)
        optimiser, loss = torch.optim.Adam(net.parameters(), 0.01), readme_loss()
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
        for number in range(120):
            own = [2 * number % 40, (2 * number + 1) % 40]
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                value = loss(net(raw[own]), labels[own])
            optimiser.zero_grad()
            scaler.scale(value).backward()
            scaler.step(optimiser)
            scaler.update()
            losses += [value.item()] * (number >= 100)
    return np.mean(losses)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_half_precision_trains_as_float32_does(batch_norm):
    """With affinities, which half precision rounds to 1, these trainings end at 3.6 and 3.7."""
    expected = mean_loss(torch.float32, batch_norm)
    assert expected < 0.3
    for dtype in (torch.bfloat16, torch.float16):
        assert mean_loss(dtype, batch_norm) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_whose_output_has_half_precision(dtype):
    raw, labels = batch()
    logits = network()(raw).detach()
    expected = readme_loss()(logits.to(dtype).float(), labels)
    leaf = logits.to(dtype).requires_grad_()
    value = readme_loss()(leaf, labels)
    value.backward()
    assert value == expected and value.dtype == torch.float32
    assert leaf.grad.dtype == dtype and leaf.grad.isfinite().all()
    assert leaf.grad.count_nonzero() > 0.9 * (2 * 32 * 31 * 4)


def test_a_compiled_network():
    raw, labels = batch()
    plain, compiled = network(), network()
    torch.compiler.reset()
    step(plain, raw, labels)
    step(torch.compile(compiled, backend="aot_eager"), raw, labels)
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_two_processes_have_the_gradient_of_one(tmp_path):
    worker = ROOT / "tests/helpers/ddp_worker.py"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    files = tmp_path / "weights.pt", tmp_path / "net.model"
    command = [*torchrun, "--nproc-per-node", "2", str(worker), *map(str, files)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    alone = network()
    step(alone, *batch())
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    saved = load_model(tmp_path / "net.model").network.state_dict()  # of the wrapped network
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(found[name], expected)
        assert torch.equal(saved[name], found[name])


def test_lightning_with_mixed_precision_and_accumulated_gradients(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Segmenter(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.loss, self.seen = network(), readme_loss(), []

        def training_step(self, patches, index):
            raw, labels = patches
            logits = self.network(raw)
            self.seen.append(logits.dtype)
            value = self.loss(logits, labels)
            self.log_dict(dict(self.loss.last_terms))
            return value

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    raw, labels = batch()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = Segmenter()
    trainer = lightning.Trainer(
        max_epochs=1,
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(TensorDataset(raw, labels), batch_size=2))
    assert model.seen == [torch.bfloat16] * 2
    assert set(trainer.logged_metrics) == {"WindowLoss", "AffinityCrossEntropy"}
    expected = network()
    step(expected, raw, labels)  # the mean over two batches is that over the four samples
    before = nn.utils.parameters_to_vector(network().parameters())
    update = nn.utils.parameters_to_vector(model.network.parameters()) - before
    truth = nn.utils.parameters_to_vector(expected.parameters()) - before
    assert torch.nn.functional.cosine_similarity(update, truth, dim=0) > 0.99
