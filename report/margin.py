"""What MALIS charges a trained network for, with and without a margin between labels that touch.

    python -m report.margin --model results/experiments/fib25_unet-cross-entropy-as-labelled_0.model

A network that learned from labels as they are, judged on patches of validation sections. What it is
charged for without a margin, and not with one, is the labels' doing. Writes
``report/results/margin.json``.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import malis
from data.locate import find_volume
from malis.training.checkpoint import load_model
from malis.training.dataset import PatchDataset, load_volume
from report.configurations import DATA
from report.record import write_results

MARGINS = (0, 1, 2)
PATCHES = 64


def charges(model: Path, data: str, n_patches: int = PATCHES, seed: int = 0) -> dict[str, Any]:
    """Compute the losses of a network's affinities for margins of several widths.

    Parameters
    ----------
    model : Path
    data : str
        Key of `report.configurations.DATA`, of a 2D network.
    n_patches : int
        Drawn at random from the validation sections, the same for every margin.
    seed : int

    Returns
    -------
    dict
        A row for each margin: its width in voxels, the mean MALIS loss on whole patches and on the
        windows of the configuration, and how many voxels became background; JSON-able.
    """
    source = DATA[data]
    network, offsets, card = load_model(model)
    network.eval()
    part = load_volume(find_volume(source.volume)).sections(source.split.validation)
    plain = malis.MalisLoss(offsets)
    losses = {"patch": plain, "windows": malis.WindowLoss(plain, source.window)}
    rows = []
    for margin in MARGINS:
        size = network.output_size(source.patch)
        patches = PatchDataset(
            part,
            source.patch,
            size,
            boundary=margin,
            neighbours=source.neighbours,
            seed=seed,
        )
        found: dict[str, list[float]] = {name: [] for name in (*losses, "background")}
        for index in range(n_patches):
            raw, labels = patches[index]
            with torch.inference_mode():
                affinities = network(raw[None]).sigmoid()
            for name, loss in losses.items():
                found[name].append(loss(affinities, labels[None]).item())
            found["background"].append((labels == 0).double().mean().item())
        rows.append({"margin": margin} | {name: float(np.mean(v)) for name, v in found.items()})
    return {
        "data": data,
        "network": {key: card[key] for key in ("method", "title", "seed", "steps")},
        "patches": n_patches,
        "window": source.window,
        "seed": seed,
        "rows": rows,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", choices=DATA, default="fib25")
    options = parser.parse_args()
    results = charges(options.model, options.data)
    print(write_results("margin", results, device="cpu"))
    for row in results["rows"]:
        print(*(f"{key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
