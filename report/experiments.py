"""Train and score the grid of `report.configurations`.

    python -m report.experiments                   every run that has no result yet
    python -m report.experiments --only isbi2012 --methods unet-both --seeds 0
    python -m report.experiments --trials --only fib25 --seeds 0 --steps 400
    python -m report.experiments --rates --only isbi2012 --seeds 0
    python -m report.experiments --folds           every section is a test section once
    python -m report.experiments --folds --only fib25_neighbours --steps 500
    python -m report.experiments --rescore         segment and score anew with the trained networks
    python -m report.experiments --quick           a few steps of each; nothing is kept in report/

A run writes ``report/results/runs/<data>_<method>_<seed>.json``; a trial, which sees no test
section, ``report/results/trials/...``; a fold ``report/results/folds/<data>_<method>_<fold>.json``,
with its number as seed, or ``report/results/lengths/500/...`` where it has 500 steps instead of
the usual number. One that was killed goes on from its checkpoint in
``results/experiments/``, and a finished one is left out (``--resume``, the default); with
``--no-resume`` both are trained anew, and the old result stays until there is a new one.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.locate import find_volume
from malis.training import CosineDecay, History, choose_device, train
from malis.training.augmentation import Augmentation
from malis.training.checkpoint import load_model, save_model
from malis.training.dataset import LabelledVolume, PatchDataset, load_volume
from report.configurations import (
    DATA,
    METHODS,
    SEEDS,
    TRIALS,
    Data,
    Method,
    file_name,
    fold_of,
    fold_runs,
    rate_runs,
    runs,
)
from report.record import RESULTS, ROOT, write_results
from report.scoring import score_network, validator

WORK = ROOT / "results" / "experiments"
QUICK_STEPS = 12
VALIDATIONS = 6  # points of a learning curve,
GLANCE = 9  # and the sections, at most, that it is made from
CURVE_POINTS = 100


def run(
    data: str,
    method: str,
    seed: int,
    *,
    steps: int | None = None,
    work: Path = WORK,
    test: bool = True,
    fold: int | None = None,
) -> dict[str, Any]:
    """Train one network and score it.

    Parameters
    ----------
    data : str
        Key of `report.configurations.DATA`.
    method : str
        Key of `report.configurations.TRIALS`.
    seed : int
        Of the weights and the patches.
    steps : int, optional
        Updates of the weights; by default those of the configuration.
    work : Path
        Where the checkpoint and the trained model go.
    test : bool
        Whether the test sections are scored.
    fold : int, optional
        Of a cross-validation, see `report.configurations.fold_of`.

    Returns
    -------
    dict
        Configuration, scores, learning curves and seconds per step; JSON-able.
    """
    source, recipe = DATA[data] if fold is None else fold_of(data, fold), TRIALS[method]
    steps = source.steps if steps is None else steps
    name = file_name(data, method, seed)
    work.mkdir(parents=True, exist_ok=True)
    volume = load_sections(source)
    torch.manual_seed(seed)
    arguments = recipe.network_arguments(len(source.patch), source.neighbours)
    network = recipe.network(**arguments)
    history = train_stages(network, source, recipe, volume, seed, steps, work / name)
    network.eval()
    results = {
        "data": data,
        "source": source.source,
        "split": {
            name: str(getattr(source.split, name)) for name in ("train", "validation", "test")
        },
        "first_section": source.first,
        "method": method,
        "title": recipe.title,
        "losses": [
            {"share": stage.share, **_describe(stage.loss(source))} for stage in recipe.stages
        ],
        "seed": seed,
        "steps": steps,
        "batch_size": source.batch,
        "patch": source.patch,
        "boundary": margin_of(source, recipe),
        "neighbours": source.neighbours,
        "peak_learning_rate": recipe.peak_learning_rate,
        "precision": "bfloat16" if source.mixed_precision else "float32",
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "threads": torch.get_num_threads(),
        "seconds_per_step": {
            part: float(np.median(history.training[f"seconds/{part}"]))
            for part in ("data", "network", "loss")
        },
        "learning_curve": _thin(history.training["step"], history.training["loss"]),
        "validation_curve": history.validation,
        "scores": score(network, source, volume, test),
    }
    save_model(work / f"{name}.model", network, arguments, source.offsets, results)
    return results


def load_sections(source: Data) -> LabelledVolume:
    """Read a volume, its sections counted as the configuration has it."""
    volume = load_volume(find_volume(source.volume))
    if not source.first:
        return volume
    raw, labels = (np.roll(array, -source.first, axis=0) for array in (volume.raw, volume.labels))
    return replace(volume, raw=raw, labels=labels)


def pieces(
    volume: LabelledVolume, source: Data, augmentation: Augmentation
) -> list[LabelledVolume]:
    """Return the sections for training: one piece, or two where the stack's ends met in a turn.

    Sections that are seen one by one stay together. Of a volume, a piece that is too thin for a
    patch with its margin is left out.
    """
    train = source.split.train
    seam = len(volume.raw) - source.first  # what stands here stood at the top of the stack
    flat = len(source.patch) == 2
    if seam not in train[1:] or (flat and not source.neighbours):
        return [volume.sections(train)]
    parts = range(train.start, seam), range(seam, train.stop)
    thickness = 1 if flat else source.patch[0] + 2 * augmentation.margin(volume.resolution)[0]
    return [volume.sections(part) for part in parts if len(part) >= thickness]


def score(
    network: torch.nn.Module, source: Data, volume: LabelledVolume, test: bool
) -> dict[str, Any]:
    """Segment and score the sections that the configuration names, see `score_network`."""
    return score_network(
        network,
        source.offsets,
        volume.sections(source.split.validation),
        volume.sections(source.split.test) if test else None,
        source.ignore,
        source.linkage,
    )


def rescore(
    data: str, method: str, seed: int, results: dict[str, Any], work: Path = WORK
) -> dict[str, Any]:
    """Replace the scores of a run by those of its trained network, segmented as is usual now.

    Parameters
    ----------
    data, method : str
        Keys of the configurations.
    seed : int
    results : dict
        What the run wrote.
    work : Path
        Where the trained model is.

    Returns
    -------
    dict
        The same with other scores; the model's card has them, too.
    """
    source = DATA[data]
    path = work / f"{file_name(data, method, seed)}.model"
    model = load_model(path)
    test = "mean" in results["scores"]["agglomeration"]
    scores = score(model.network, source, load_sections(source), test)
    arguments = TRIALS[method].network_arguments(len(source.patch), source.neighbours)
    save_model(path, model.network, arguments, model.offsets, {**model.card, "scores": scores})
    return {**results, "scores": scores}


def train_stages(
    network: torch.nn.Module,
    source: Data,
    recipe: Method,
    volume: LabelledVolume,
    seed: int,
    steps: int,
    checkpoint: Path,
) -> History:
    """Train a network with one loss after the other, and go on where a checkpoint ends.

    Parameters
    ----------
    network : nn.Module
        Its weights are changed.
    source : Data
    recipe : Method
    volume : LabelledVolume
    seed : int
    steps : int
        Of all stages together.
    checkpoint : Path
        Name of the checkpoints, to which the number of the stage is added.

    Returns
    -------
    History
        Of all stages, steps numbered throughout.
    """
    augmentation = Augmentation()
    patches = PatchDataset(
        pieces(volume, source, augmentation),
        source.patch,
        network.output_size(source.patch),
        augment=augmentation,
        boundary=margin_of(source, recipe),
        neighbours=source.neighbours,
        seed=seed,
    )
    sections = source.split.validation
    flat = len(source.patch) == 2
    glance = sections[:: math.ceil(len(sections) / GLANCE)] if flat else sections
    whole, done = History(), 0
    for number, stage in enumerate(recipe.stages):
        last = number == len(recipe.stages) - 1
        share = steps - done if last else round(steps * stage.share)
        history = train(
            network,
            stage.loss(source),
            patches,
            steps=share,
            batch_size=source.batch,
            learning_rate=CosineDecay(recipe.peak_learning_rate, steps, done),
            mixed_precision=source.mixed_precision,
            seed=seed + 1000 * number,
            checkpoint=checkpoint.with_name(f"{checkpoint.name}-{number}.pt"),
            checkpoint_every=250,
            validate=validator(source.offsets, volume.sections(glance), source.ignore),
            validate_every=max(steps // VALIDATIONS, 1),
        )
        for kept, new in (
            (whole.training, history.training),
            (whole.validation, history.validation),
        ):
            for column, values in new.items():
                shift = done if column == "step" else 0
                kept.setdefault(column, []).extend(value + shift for value in values)
        done += share
    return whole


def margin_of(source: Data, recipe: Method) -> int:
    """Return how many voxels of every object become background in training."""
    return source.boundary if recipe.boundary is None else recipe.boundary


def _describe(loss: torch.nn.Module) -> dict[str, Any]:
    """List the settings of a loss and of those that it is made of."""
    settings = {
        name: value
        for name, value in vars(loss).items()
        if isinstance(value, bool | int | float | str | list) and not name.startswith("_")
    }
    settings.pop("training", None)
    parts = [
        _describe(part)
        for module in loss.children()
        for part in (module if isinstance(module, torch.nn.ModuleList) else [module])
    ]
    return {"name": type(loss).__name__, **settings} | ({"losses": parts} if parts else {})


def _thin(steps: list[float], losses: list[float]) -> dict[str, list[float]]:
    """Average a curve over equal windows."""
    windows = np.array_split(np.arange(len(steps)), min(CURVE_POINTS, len(steps)))
    return {
        "step": [float(np.mean(np.array(steps)[window])) for window in windows],
        "loss": [float(np.mean(np.array(losses)[window])) for window in windows],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA), metavar="DATA")
    parser.add_argument("--methods", nargs="+", choices=TRIALS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 1 2, or all folds")
    parser.add_argument("--trials", action="store_true", help="no test section is looked at")
    parser.add_argument("--rates", action="store_true", help="trials of other learning rates")
    parser.add_argument(
        "--steps", type=int, help="of trials or folds; by default those of the grid"
    )
    parser.add_argument("--folds", action="store_true", help="cross-validate; seeds are the folds")
    parser.add_argument("--rescore", action="store_true", help="of runs that have a result")
    parser.add_argument("--quick", action="store_true", help="a few steps, results not kept")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from checkpoints and leave out what has a result, or train all anew",
    )
    options = parser.parse_args(arguments)
    methods = options.methods or list(TRIALS if options.trials else METHODS)
    if options.trials and options.rates:
        parser.error("--rates: trials of its own, without --trials")
    options.trials |= options.rates
    if (options.rates or not options.trials) and (unknown := set(methods) - set(METHODS)):
        parser.error(f"{', '.join(sorted(unknown))}: only with --trials")
    if options.steps and not (options.trials or options.folds):
        parser.error("--steps: only with --trials or --folds")
    if options.folds and (options.trials or options.rescore):
        parser.error("--folds: with none of --trials, --rates and --rescore")
    folder = "trials" if options.trials else "folds" if options.folds else "runs"
    if options.folds and options.steps:
        folder = f"lengths/{options.steps}"
    work = WORK / "quick" if options.quick else WORK
    work = work if folder == "runs" and not options.quick else work / folder
    device = str(choose_device())
    if options.folds:
        grid = fold_runs(options.only, options.methods, options.seeds)
    elif options.rates:
        grid = rate_runs(options.only, methods, options.seeds or SEEDS)
    else:
        grid = runs(options.only, methods, options.seeds or SEEDS)
    for data, method, seed in grid:
        name = f"{folder}/{file_name(data, method, seed)}"
        path = RESULTS / f"{name}.json"
        if options.rescore:
            if not path.exists() or not (work / f"{path.stem}.model").exists():
                continue
            earlier = json.loads(path.read_text())
            earlier.setdefault("training_environment", earlier["environment"])
            del earlier["environment"]
            results = rescore(data, method, seed, earlier, work)
        elif options.resume and path.exists() and not options.quick:
            done = json.loads(path.read_text())["steps"]
            if options.steps not in (None, done):
                parser.error(f"{name} has {done} steps; --no-resume trains it anew")
            print(f"{name}: has a result")
            continue
        else:
            if not options.resume:
                for stage in work.glob(f"{path.stem}-[0-9].pt"):
                    stage.unlink()
            results = run(
                data,
                method,
                seed,
                steps=QUICK_STEPS if options.quick else options.steps,
                work=work,
                test=options.quick or not options.trials,
                fold=seed if options.folds else None,
            )
        if not options.quick:
            write_results(name, results, device=device)
        chosen = {
            kind: part["mean"]["cremi_score"] if "mean" in part else part["validation_cremi"]
            for kind, part in results["scores"].items()
        }
        print(name, ", ".join(f"{kind} {value:.3f}" for kind, value in chosen.items()), flush=True)


if __name__ == "__main__":
    main()
