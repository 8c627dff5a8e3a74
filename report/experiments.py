"""Train and score the grid of `report.configurations`.

    python -m report.experiments                   every run that has no result yet
    python -m report.experiments --only isbi2012 --methods unet-both --seeds 0
    python -m report.experiments --quick           a few steps of each; nothing is kept in report/

A run writes ``report/results/runs/<data>_<method>_<seed>.json``. One that was killed goes on from
its checkpoint in ``results/experiments/``; a finished one is left out.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.locate import find_volume
from malis.augmentation import Augmentation
from malis.checkpoint import save_model
from malis.dataset import PatchDataset, load_volume
from malis.training import choose_device, train
from report.configurations import BATCH, DATA, METHODS, OFFSETS, PATCH, SEEDS, STEPS, Decay, runs
from report.record import RESULTS, ROOT, write_results
from report.scoring import score_network

WORK = ROOT / "results" / "experiments"
QUICK_STEPS = 10
CURVE_POINTS = 100


def run(data: str, method: str, seed: int, steps: int, work: Path = WORK) -> dict[str, Any]:
    """Train one network and score it.

    Parameters
    ----------
    data : str
        Key of `report.configurations.DATA`.
    method : str
        Key of `report.configurations.METHODS`.
    seed : int
        Of the weights and the patches.
    steps : int
        Updates of the weights.
    work : Path
        Where the checkpoint and the trained model go.

    Returns
    -------
    dict
        Configuration, scores, learning curve and seconds per step; JSON-able.
    """
    source, recipe = DATA[data], METHODS[method]
    work.mkdir(parents=True, exist_ok=True)
    volume = load_volume(find_volume(source.volume))
    torch.manual_seed(seed)
    network = recipe.network(**recipe.arguments)
    patches = PatchDataset(
        volume.sections(source.split.train),
        PATCH,
        network.output_size(PATCH),
        augment=Augmentation(),
        seed=seed,
    )
    history = train(
        network,
        recipe.loss(),
        patches,
        steps=steps,
        batch_size=BATCH,
        learning_rate=Decay(recipe.peak_learning_rate, steps),
        seed=seed,
        checkpoint=work / f"{data}-{method}-{seed}.pt",
        checkpoint_every=250,
    )
    network.eval()
    scores = score_network(
        network,
        OFFSETS,
        volume.sections(source.split.validation),
        volume.sections(source.split.test),
        source.ignore,
    )
    results = {
        "data": data,
        "source": source.source,
        "split": {
            name: str(getattr(source.split, name)) for name in ("train", "validation", "test")
        },
        "method": method,
        "loss": repr(recipe.loss()),
        "seed": seed,
        "steps": steps,
        "batch_size": BATCH,
        "patch": PATCH,
        "peak_learning_rate": recipe.peak_learning_rate,
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "threads": torch.get_num_threads(),
        "seconds_per_step": {
            part: float(np.median(history.training[f"seconds/{part}"]))
            for part in ("data", "network", "loss")
        },
        "learning_curve": _thin(history.training["step"], history.training["loss"]),
        "scores": scores,
    }
    save_model(work / f"{data}-{method}-{seed}.model", network, recipe.arguments, OFFSETS, results)
    return results


def _thin(steps: list[float], losses: list[float]) -> dict[str, list[float]]:
    """Average a curve over equal windows."""
    windows = np.array_split(np.arange(len(steps)), min(CURVE_POINTS, len(steps)))
    return {
        "step": [float(np.mean(np.array(steps)[window])) for window in windows],
        "loss": [float(np.mean(np.array(losses)[window])) for window in windows],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA), metavar="DATA")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--quick", action="store_true", help="a few steps, results not kept")
    options = parser.parse_args()
    device = str(choose_device())
    for data, method, seed in runs(options.only, options.methods, options.seeds):
        name = f"runs/{data}_{method}_{seed}"
        if options.quick:
            results = run(data, method, seed, QUICK_STEPS, WORK / "quick")
        elif (RESULTS / f"{name}.json").exists():
            print(f"{name}: has a result")
            continue
        else:
            results = run(data, method, seed, options.steps)
            write_results(name, results, device=device)
        means = {kind: part["mean"]["cremi_score"] for kind, part in results["scores"].items()}
        print(name, ", ".join(f"{kind} CREMI {score:.3f}" for kind, score in means.items()))


if __name__ == "__main__":
    main()
