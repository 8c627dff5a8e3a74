"""Pictures of held-out tissue: raw, ground truth, what a network makes of it, and its errors.

    python -m report.gallery                  all volumes and networks that are at hand
    python -m report.gallery --only isbi2012

Real volumes are not part of the repository, so the pictures are, with cards that say whose tissue
it is, which network drew what, and how it scored on this section. Networks are those of
`report.experiments`, else those of ``data/models``. `make report` takes the pictures as they are.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from cremi_eval import Volume
from cremi_eval.atomic import atomic_write
from cremi_eval.evaluation import NeuronIds
from data.locate import find_volume
from malis import pictures
from malis.labels import relabel_components
from malis.pictures import match_labels
from malis.pictures.surfaces import show_surfaces
from malis.training.checkpoint import Model, load_model
from malis.training.dataset import LabelledVolume, load_volume
from report.configurations import DATA, METHODS, SEEDS, Data, file_name
from report.experiments import MODELS, WORK, held_out
from report.figures import FIGURES
from report.record import ROOT
from report.scores import LINKAGES, make_samples
from report.tables import TITLES

GALLERY = FIGURES / "gallery"
PICTURED = ("snemi3d", "fib25_slab", "isbi2012", "synthetic", "cremi_crop")
WINDOW = 300  # pixels that a panel shows along each axis, from the middle of the section
ZOOM = 2  # pixels of a picture for a pixel of tissue
COLOURS = 200
GAP = 60  # pixels between parts of a figure, at most
TOLERANCES = {True: 7, False: 3}  # pixels by which a border may be off; wide where it is drawn
SHOWN = ("unet-cross-entropy", "unet-ce-then-both", "unet-both")
BODIES, COMPARED = 8, 3  # in a picture of true neurons, and of a held-out volume's segmentations
FINE = 4  # pixels that make one in a picture of surfaces, where sections are large


def find_models(data: str) -> dict[str, Path]:
    """List the networks for a volume that are on this machine: a method, its lowest seed."""
    found = {}
    for method in SHOWN:
        own = (WORK / f"{file_name(data, method, seed)}.model" for seed in SEEDS)
        if path := next(filter(Path.is_file, own), None):
            found[method] = path
    card = MODELS / f"{data}.json"
    if card.is_file() and (method := json.loads(card.read_text())["method"]) in METHODS:
        found.setdefault(method, card.with_suffix(".model"))
    return found


def segment(model: Model, source: Data, part: LabelledVolume) -> tuple[np.ndarray, np.ndarray]:
    """Segment (z, y, x) sections with the threshold that the validation sections chose.

    Returns the segments, and the affinities as the mean over their channels.
    """
    validated = model.card["scores"][source.linkage]
    samples = make_samples(model.network, source, part)
    hierarchies = samples.agglomerated(inside=validated.get("inside"), **LINKAGES[source.linkage])
    cuts = [one.cut(validated["threshold"], validated.get("absorb", 0)) for one in hierarchies]
    means = [one.mean(axis=0) for one in samples.affinities]
    return tuple(np.stack(one).reshape(part.raw.shape) for one in (cuts, means))


def overlaps(segments: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """List which segment shares how many voxels with which true object, the most first."""
    pairs = pd.DataFrame({"segment": segments.ravel(), "true": truth.ravel()}).astype("int64")
    found = pairs[(pairs > 0).all(axis=1)].value_counts().rename("size").reset_index()
    return found.sort_values("size", ascending=False, kind="stable")


def save(path: Path, figure: plt.Figure, trimmed: bool = True) -> None:
    """Write a figure as a PNG of few colours, without white margins and wide gaps."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    if trimmed:
        inked = (pixels < 255).any(axis=2)
        rows = np.flatnonzero(inked.any(axis=1))
        near = ndimage.binary_dilation(inked.any(axis=0), iterations=GAP // 2)
        pixels = pixels[rows[0] : rows[-1] + 1, near]
    image = Image.fromarray(pixels)
    with atomic_write(path) as temporary:
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)


def save_panel(
    path: Path, shape: tuple[int, ...], show: Callable[..., None], *what: object
) -> None:
    """Draw a picture of tissue, `ZOOM` pixels a pixel."""
    figure = plt.figure(figsize=(shape[1] / 100, shape[0] / 100), dpi=100 * ZOOM)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    show(ax, *what)
    save(path, figure, trimmed=False)


def draw_volume(data: str) -> Path | None:
    """Draw the middle held-out section of a volume; None where it or its networks are not here."""
    source, models = DATA[data], find_models(data)
    try:
        part = held_out(source, load_volume(find_volume(source.volume)))
    except FileNotFoundError:
        return None
    if not models:
        return None
    middle = len(part.raw) // 2
    starts = [max((size - WINDOW) // 2, 0) for size in part.raw.shape[1:]]
    window = tuple(slice(start, start + WINDOW) for start in starts)
    whole_truth = relabel_components(part.labels[middle])
    raw, truth = part.raw[middle][window], whole_truth[window]
    folder = GALLERY / data
    folder.mkdir(parents=True, exist_ok=True)
    save_panel(folder / "raw.png", raw.shape, pictures.show_raw, raw)
    save_panel(folder / "truth.png", raw.shape, pictures.show_labels, truth, raw)
    networks, bodies = {}, {}
    coarse, step_nm = coarsened(part.resolution, part.raw.shape)
    truths = part.labels if not source.relabel else relabel_components(part.labels)
    for method, path in models.items():
        model = load_model(path)
        volume, affinities = segment(model, source, part)
        segments = volume[middle]
        found, own = match_labels(segments, whole_truth)[window], segments[window]
        borders = raw, truth, own, TOLERANCES[bool(source.ignore)]
        save_panel(folder / f"{method}.png", raw.shape, pictures.show_labels, found, raw)
        save_panel(folder / f"{method}_errors.png", raw.shape, pictures.show_disagreement, *borders)
        shown = affinities[middle][window]
        save_panel(folder / f"{method}_affinities.png", raw.shape, pictures.show_affinity, shown)
        if len(source.patch) == 3:
            bodies[METHODS[method].title.split(", ", 1)[1]] = volume[coarse]
            merger = folder / f"{method}_merger.png"
            draw_merger(merger, truths[coarse], volume[coarse], step_nm)
        ids = NeuronIds(Volume(whole_truth[None], (1, 1, 1)), ignore_groundtruth=source.ignore)
        networks[method] = {
            "title": METHODS[method].title,
            **{key: model.card[key] for key in ("seed", "steps")},
            "threshold": model.card["scores"][source.linkage]["threshold"],
            "scores": ids.whole_volume_scores(segments[None]).as_dict(),
        }
    if bodies:
        draw_largest(folder / "neurons.png", truths[coarse], bodies, step_nm)
    card = {
        **{"data": data, "title": TITLES[data], "source": source.source},
        "section": source.split.test.start + middle,
        "width_nm": raw.shape[1] * part.resolution[2],
        "networks": networks,
    }
    with atomic_write(folder / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    return folder / "card.json"


def draw_merger(
    path: Path, truth: np.ndarray, segments: np.ndarray, step_nm: tuple[float, ...]
) -> None:
    """Draw the worst merger: the true objects that one segment joins, and that segment.

    The worst is the one whose second largest part is the largest. Shown are all its parts that are
    at least a tenth of that.
    """
    parts = overlaps(segments, truth)
    second = parts.groupby("segment")["size"].nth(1)
    worst = parts.loc[second.idxmax(), "segment"]
    own = parts[(parts["segment"] == worst) & (parts["size"] >= second.max() / 10)]
    joined = np.where(segments == worst, truth, 0)
    figure = plt.figure(figsize=(8, 3), dpi=160)
    left, right = (figure.add_axes((x, 0, 0.5, 1), projection="3d") for x in (0, 0.5))
    show_surfaces(left, joined, own["true"].tolist(), step_nm)
    show_surfaces(right, segments, [worst], step_nm, ("#999999",))
    for ax in (left, right):
        ax.view_init(elev=40, azim=-70)
    save(path, figure)


def coarsened(
    resolution: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[float, ...]]:
    """Return the voxels of a volume that its surfaces are drawn from, and their size."""
    every = FINE if min(shape[1:]) > 500 else 1
    z, y, x = resolution
    return np.s_[:, ::every, ::every], (z, every * y, every * x)


def draw_largest(
    path: Path,
    truth: np.ndarray,
    found: dict[str, np.ndarray],
    step_nm: tuple[float, ...],
    count: int = COMPARED,
) -> None:
    """Draw the largest true objects, and in each segmentation the segments that cover most of them.

    A segment that covers most of two objects is drawn once, in the colour of the larger one.
    """
    ids, sizes = np.unique(truth[truth > 0], return_counts=True)
    largest = ids[np.argsort(-sizes, kind="stable")][:count].tolist()
    panels = {"ground truth": (truth, largest)}
    for title, segments in found.items():
        best = overlaps(segments, truth).drop_duplicates("true").set_index("true")["segment"]
        panels[title] = (segments, [best.get(one, 0) for one in largest])
    figure = plt.figure(figsize=(4 * len(panels), 4.2), dpi=160)
    for number, (title, (labels, shown)) in enumerate(panels.items()):
        place = ((number + 0.06) / len(panels), 0, 0.88 / len(panels), 0.92)
        ax = figure.add_axes(place, projection="3d")
        once = [one if one not in shown[:i] else -1 for i, one in enumerate(shown)]
        show_surfaces(ax, labels.astype(np.int64), once, step_nm)
        ax.view_init(elev=28, azim=-60)
        ax.set_title(title if found else "", fontsize=14)
    save(path, figure)


def draw_neurons() -> Path | None:
    """Draw the largest neurons of a block of SNEMI3D's labels: what is to be found."""
    try:
        volume = load_volume(find_volume(DATA["snemi3d"].volume))
    except FileNotFoundError:
        return None
    coarse, step_nm = coarsened(volume.resolution, volume.raw.shape)
    draw_largest(FIGURES / "neurons.png", volume.labels[coarse], {}, step_nm, BODIES)
    return FIGURES / "neurons.png"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*DATA, "neurons"], metavar="DATA")
    options = parser.parse_args()
    mpl.use("Agg")
    for name in options.only or [*PICTURED, "neurons"]:
        drawn = draw_neurons() if name == "neurons" else draw_volume(name)
        print(drawn.relative_to(ROOT) if drawn else f"{name}: the volume or networks are not here")


if __name__ == "__main__":
    main()
