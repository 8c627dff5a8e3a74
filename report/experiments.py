"""Train and score the methods of `report.configurations`.

    python -m report.experiments --only snemi3d            every run that has no result yet
    python -m report.experiments --only isbi2012 --methods unet-both --seeds 0
    python -m report.experiments --folds --only isbi2012   every section is a test section once
    python -m report.experiments --folds --only fib25_neighbours --steps 500
    python -m report.experiments --trials --only fib25 --seeds 0 --steps 400
    python -m report.experiments --only synthetic --quick  a few steps of each; nothing is kept
    python -m report.experiments --ship isbi2012_unet-both_0   its network, into data/models

A run puts its rows into the tables of ``report/results`` when it ends (`report.record`), a trial,
which sees no test section, and a fold, with its number as seed, too. One that was killed goes on
from its checkpoint in ``results/experiments/``, and a finished one is left out (``--resume``, the
default); with ``--no-resume`` both are trained anew, and the old rows stay until there are new
ones.
"""

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cremi_eval.atomic import atomic_write
from data.locate import find_volume
from malis.training import CosineDecay, choose_device, train
from malis.training.augmentation import Augmentation, grey_value_changes
from malis.training.checkpoint import load_model, save_model
from malis.training.dataset import LabelledVolume, PatchDataset, load_volume
from malis.training.description import describe
from malis.training.validation import validation_scores
from report.configurations import (
    DATA,
    METHODS,
    SEEDS,
    Data,
    Method,
    file_name,
    fold_of,
    fold_runs,
    run_name,
    runs,
)
from report.record import RESULTS, ROOT, add_rows, environment, read_table
from report.scores import VIEWS, score_network

WORK = ROOT / "results" / "experiments"
MODELS = ROOT / "data" / "models"
QUICK_STEPS = 12
VALIDATIONS = {True: 6, False: 2}  # points of a learning curve of sections, or of a volume,
GLANCE = 9  # and the sections, at most, that it is made from
CURVE_POINTS = 100


def run(
    data: str,
    method: str,
    seed: int,
    *,
    study: str = "seeds",
    steps: int | None = None,
    work: Path = WORK,
    device: str = "cpu",
) -> dict[str, list[dict]]:
    """Train one network and score it; return rows for `report.record.add_rows`.

    ``study`` is "seeds", "folds", with the number of the fold as seed, or "trials", without a test
    section; ``steps`` replaces those of the configuration. Checkpoint, trained model and its card
    go to ``work``.
    """
    source = fold_of(data, seed) if study == "folds" else DATA[data]
    recipe, steps = METHODS[method], steps or source.steps
    place = work / file_name(data, method, seed)
    work.mkdir(parents=True, exist_ok=True)
    volume = load_sections(source)
    torch.manual_seed(seed)
    arguments = recipe.network_arguments(source)
    far = {"n_classes": len(source.offsets) + len(source.far)} if source.far else {}
    network = recipe.network(**(arguments | far))
    training, validation = train_stages(network, source, recipe, volume, seed, steps, place)
    network = nearest_only(network, source, recipe).eval()
    scores = score_network(
        network,
        source,
        volume.sections(source.split.validation),
        None if study == "trials" else held_out(source, volume),
    )
    for row in scores:
        if row["part"] == "test":  # sections are counted from 0
            section = source.first + source.split.test.start + row["section"]
            row["section"] = section % max(source.split.test.stop, 1)
    windows = np.arange(len(training)) * CURVE_POINTS // len(training)
    thinned = training[["step", "loss"]].groupby(windows).mean()
    curves = thinned.assign(curve="training").to_dict("records")
    curves += validation.assign(curve="validation").to_dict("records")
    here = environment(device)
    network_title, loss = recipe.title.split(", ", 1)
    split = [f"{k} {part[0]}-{part[-1]}" for k, part in vars(source.split).items() if part]
    settings = {
        "source": source.source,
        "first_section": source.first,
        "patch": source.patch,
        "boundary": recipe.margin(source),
        "neighbours": source.neighbours,
        "absorb": source.absorb,
        "losses": [
            {"share": stage.share, **describe(stage.loss(source))} for stage in recipe.stages
        ],
        "threads": torch.get_num_threads(),
        **{key: here[key] for key in ("cores", "system")},
    }
    row = {
        "run": run_name(study, data, method, steps, seed),
        **{"study": study, "data": data, "method": method, "steps": steps, "seed": seed},
        "split": ", ".join(split + [f"test {source.test_volume}"] * bool(source.test_volume)),
        "network": network_title,
        "loss": loss,
        "batch_size": source.batch,
        "precision": "bfloat16" if source.mixed_precision else "float32",
        "learning_rate": recipe.peak_learning_rate,
        "parameters": sum(weights.numel() for weights in network.parameters()),
        **{key: here[key] for key in ("device", "processor", "date", "revision")},
        "versions": ", ".join(f"{key} {one}" for key, one in here["versions"].items() if one),
        **{
            f"seconds_{part}": float(training[f"seconds/{part}"].median())
            for part in ("data", "network", "loss")
        },
        "settings": settings,
    }
    card = {**row, "title": recipe.title, "scores": _summary(scores, source)}
    save_model(place.with_suffix(".model"), network, arguments, source.offsets, card)
    rows = {"scores.csv.gz": scores, "curves.csv.gz": curves}
    named = {name: [{"run": row["run"], **one} for one in part] for name, part in rows.items()}
    return {"runs.csv": [row], **named}


def held_out(source: Data, volume: LabelledVolume) -> LabelledVolume:
    """Return what is tested: sections of the volume, or another one."""
    if source.test_volume:
        return load_volume(find_volume(source.test_volume))
    return volume.sections(source.split.test)


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


def train_stages(
    network: torch.nn.Module,
    source: Data,
    recipe: Method,
    volume: LabelledVolume,
    seed: int,
    steps: int,
    checkpoint: Path,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train a network with one loss after the other, and go on where a checkpoint ends.

    The name of a checkpoint is ``checkpoint`` and the number of its stage. Returns what was logged
    in training and in validation, with steps numbered throughout all stages.
    """
    augmentation = Augmentation(grey_values=grey_value_changes(by_section=source.serial))
    ndim = source.network_ndim
    patches = PatchDataset(
        pieces(volume, source, augmentation),
        source.patch,
        (*source.patch[:-ndim], *network.output_size(source.patch[-ndim:])),
        augment=augmentation,
        boundary=recipe.margin(source),
        neighbours=source.neighbours,
        seed=seed,
    )
    sections = source.split.validation
    flat = len(source.patch) == 2
    glance = sections[:: math.ceil(len(sections) / GLANCE)] if flat else sections
    training, validation, done = [], [], 0
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
            channels_last=source.mixed_precision,
            seed=seed + 1000 * number,
            checkpoint=checkpoint.with_name(f"{checkpoint.name}-{number}.pt"),
            checkpoint_every=250,
            validate=lambda trained: validation_scores(
                nearest_only(trained, source, recipe),
                volumes=[volume.sections(glance)],
                offsets=source.offsets,
                ignore=source.ignore,
            ),
            validate_every=max(steps // VALIDATIONS[flat], 1),
        )
        for kept, new in ((training, history.training), (validation, history.validation)):
            kept.append(pd.DataFrame(new).assign(step=np.add(new["step"], done)))
        done += share
    return pd.concat(training), pd.concat(validation)


def nearest_only(network: torch.nn.Module, source: Data, recipe: Method) -> torch.nn.Module:
    """Return the network without the channels of longer edges, in the mode that it is in."""
    if not source.far:
        return network
    near = recipe.network(**recipe.network_arguments(source)).train(network.training)
    channels = len(source.offsets)
    weights = network.state_dict()
    last = {key: value[:channels] for key, value in weights.items() if key.startswith("last.")}
    near.load_state_dict(weights | last)
    return near


def ship(model: Path) -> Path:
    """Copy a trained network and its card to where readers find them: ``data/models``."""
    card = load_model(model).card
    target = MODELS / f"{card['data']}.model"
    MODELS.mkdir(exist_ok=True)
    with atomic_write(target) as temporary:
        shutil.copyfile(model, temporary)
    with atomic_write(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    return target


def _summary(scores: list[dict[str, Any]], source: Data) -> dict[str, Any]:
    """Take thresholds and means, for the card of a model."""
    found = {}
    for reading, rows in pd.DataFrame(scores).groupby("reading"):
        choice, test = rows[rows["part"] == "validation"].iloc[0], rows[rows["part"] == "test"]
        one = choice[["threshold", "inside"]].dropna().to_dict()
        if source.absorb and "inside" in one:
            one["absorb"] = source.absorb
        one["validation_cremi"] = choice["cremi_score"]
        means = test.filter(regex="^(voi|rand|adapted|cremi)").mean()
        found[reading] = {**one, **({"mean": means.to_dict()} if len(test) else {})}
        if reading.removeprefix(VIEWS) == source.linkage:
            found[reading.replace(source.linkage, "agglomeration")] = found[reading]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DATA, metavar="DATA")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 1 2, or all folds")
    study = parser.add_mutually_exclusive_group()
    study.add_argument("--trials", action="store_true", help="no test section is looked at")
    study.add_argument("--folds", action="store_true", help="cross-validate; seeds are the folds")
    parser.add_argument("--steps", type=int, help="of trials or folds")
    parser.add_argument("--quick", action="store_true", help="a few steps, results not kept")
    parser.add_argument("--ship", metavar="MODEL", help="its name in results/experiments")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from checkpoints and leave out what has a result, or train all anew",
    )
    options = parser.parse_args(arguments)
    if options.ship:
        print(ship(WORK / f"{options.ship}.model"))
        return
    if not options.only:
        parser.error("--only: say on which volumes")
    if options.steps and not (options.trials or options.folds):
        parser.error("--steps: only with --trials or --folds")
    study = "trials" if options.trials else "folds" if options.folds else "seeds"
    if options.folds:
        grid = fold_runs(options.only, options.methods, options.seeds)
    else:
        grid = runs(options.only, options.methods or list(METHODS), options.seeds or SEEDS)
    steps = QUICK_STEPS if options.quick else options.steps
    done = set(read_table("runs.csv", RESULTS)["run"])
    for data, method, seed in grid:
        usual = fold_of(data, seed).steps if options.folds else DATA[data].steps
        name = run_name(study, data, method, steps or usual, seed)
        if options.resume and not options.quick and name in done:
            print(f"{name}: has a result")
            continue
        work = WORK / "quick" if options.quick else WORK
        work = work if study == "seeds" else work / study / str(steps or usual)
        if not options.resume:
            for stage in work.glob(f"{file_name(data, method, seed)}-[0-9].pt"):
                stage.unlink()
        device = str(choose_device())
        rows = run(data, method, seed, study=study, steps=steps, work=work, device=device)
        if not options.quick:
            add_rows(rows, RESULTS)
        made = pd.DataFrame(rows["scores.csv.gz"])
        part = "validation" if study == "trials" else "test"
        means = made[made["part"] == part].groupby("reading", sort=False)["cremi_score"].mean()
        print(name, ", ".join(f"{key} {one:.3f}" for key, one in means.items()), flush=True)


if __name__ == "__main__":
    main()
