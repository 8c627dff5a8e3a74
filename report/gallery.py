"""Pictures of test sections: tissue, ground truth, and what every network makes of it.

    python -m report.gallery                  all volumes and networks that are at hand
    python -m report.gallery --only isbi2012

Real volumes are not part of the repository, so the pictures are:
``report/figures/gallery/<data>_<section>/`` holds one small PNG a panel and ``card.json``, which
says whose tissue it is and under what terms, which network drew which panel at which threshold,
and how each scored on this very section. Beside the borders of a network lies a picture of its
affinities. A panel is drawn again when its network has changed.
Networks are those of `report.experiments` (``results/experiments``), else those that the repository
brings (``data/models``).
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from cremi_eval import Volume
from cremi_eval.atomic import atomic_write
from cremi_eval.evaluation import NeuronIds
from data.locate import find_volume
from malis import pictures
from malis.labels import relabel_components
from malis.segmentation import agglomerate
from malis.training import LabelledVolume, load_volume
from malis.training.checkpoint import Model, load_model
from report.configurations import DATA, METHODS, SEEDS, file_name, runs
from report.experiments import WORK
from report.gathered import collect
from report.record import ROOT, environment
from report.runs import GALLERY, gallery_cards, load_runs
from report.scoring import LINKAGES, make_samples

SHIPPED = ROOT / "data" / "models"
MAIN = "agglomeration"
WINDOW = 320  # pixels that a panel shows along each axis, from the middle of the section
GREYS = 64


def find_model(data: str, method: str, seed: int) -> Path | None:
    """Find the trained network of a run, if there is one on this machine.

    Parameters
    ----------
    data, method : str
        Keys of `DATA` and `METHODS`.
    seed : int

    Returns
    -------
    Path or None
    """
    own = WORK / f"{file_name(data, method, seed)}.model"
    if own.is_file():
        return own
    card = SHIPPED / f"{data}.json"
    if card.is_file():
        content = json.loads(card.read_text())
        if (content["method"], content["seed"]) == (method, seed):
            return card.with_suffix(".model")
    return None


def models_of(data: str) -> dict[str, tuple[int, Path]]:
    """List the networks for a volume: for each method the one of the lowest seed."""
    found: dict[str, tuple[int, Path]] = {}
    for _, method, seed in runs([data], list(METHODS), sorted(SEEDS)):
        path = find_model(data, method, seed)
        if path and method not in found:
            found[method] = (seed, path)
    return found


def shown_sections(test: range) -> list[int]:
    """Choose the sections to show: the first of the test sections and the middle one."""
    return sorted({test[0], test[len(test) // 2]})


def segment_test(
    model: Model, volume: LabelledVolume, test: range
) -> tuple[np.ndarray, np.ndarray]:
    """Segment the test sections with the threshold that the validation sections chose.

    Parameters
    ----------
    model : Model
        Its card holds the threshold.
    volume : LabelledVolume
    test : range

    Returns
    -------
    segments : (len(test), y, x) uint64 array
    affinities : (len(test), y, x) float32 array
        Means over the channels.
    """
    threshold = model.card["scores"][MAIN]["threshold"]
    linkage = LINKAGES[DATA[model.card["data"]].linkage]
    samples = make_samples(model.network, model.offsets, volume.sections(test))
    cuts = [
        agglomerate(s.affinities, model.offsets, s.fragments, **linkage).cut(threshold)
        for s in samples
    ]
    shape = (len(test), *volume.raw.shape[1:])  # of sections one by one, and of a volume
    means = [s.affinities.mean(axis=0) for s in samples]
    return np.stack(cuts).reshape(shape), np.stack(means).reshape(shape)


def score_section(
    truth: np.ndarray, segments: np.ndarray, ignore: tuple[int, ...]
) -> dict[str, float]:
    """Score one section as if it were alone."""
    ids = NeuronIds(Volume(truth[None], (1, 1, 1)), ignore_groundtruth=ignore)
    return ids.whole_volume_scores(segments[None]).as_dict()


def window_of(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Take the middle of a section."""
    starts = [max((size - WINDOW) // 2, 0) for size in shape]
    return tuple(
        slice(start, start + min(WINDOW, size)) for start, size in zip(starts, shape, strict=True)
    )


def save_panel(path: Path, show: Callable[..., None], picture: np.ndarray, *others: Any) -> None:
    """Draw a picture one pixel a pixel, as a PNG of few colours.

    Parameters
    ----------
    path : Path
    show : callable
        Of `malis.pictures`; takes axes, the picture and the other arguments.
    picture : (y, x) array
    *others
    """
    figure = plt.figure(figsize=(picture.shape[1] / 100, picture.shape[0] / 100), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    show(ax, picture, *others)
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    plt.close(figure)
    with atomic_write(path) as temporary:
        image.quantize(GREYS, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)


def draw_section(data: str, section: int, fresh: dict[str, dict[str, Any]]) -> Path:
    """Draw tissue, truth and the given segmentations of a section, and write its card.

    Parameters
    ----------
    data : str
        Key of `DATA`.
    section : int
        Number of the section in its volume.
    fresh : dict
        For each method: ``segments`` and mean ``affinities`` (y, x), ``seed``, ``sha256`` and
        ``threshold``. Panels of other methods stay as they are.

    Returns
    -------
    Path
        The card.
    """
    source = DATA[data]
    volume = load_volume(find_volume(source.volume))
    raw, truth = volume.raw[section], relabel_components(volume.labels[section])
    window = window_of(raw.shape)
    folder = GALLERY / f"{data}_{section}"
    folder.mkdir(parents=True, exist_ok=True)
    save_panel(folder / "raw.png", pictures.show_raw, raw[window])
    borders = pictures.show_borders
    save_panel(folder / "truth.png", borders, raw[window], truth[window], pictures.TRUTH)
    panels = read_card(data, section).get("networks", {})
    for method, found in fresh.items():
        segments, affinities = found["segments"][window], found["affinities"][window]
        save_panel(folder / f"{method}.png", borders, raw[window], segments, pictures.FOUND)
        save_panel(folder / f"{method}_affinities.png", pictures.show_affinity, affinities)
        panels[method] = {
            "title": METHODS[method].title,
            "affinities": f"{method}_affinities",
            **{key: found[key] for key in ("seed", "sha256", "threshold")},
            **{key: environment()[key] for key in ("date", "revision")},
            "scores": score_section(truth, found["segments"], source.ignore),
        }
    card = {
        "data": data,
        "volume": source.volume,
        "source": source.source,
        "section": section,
        "window": [[part.start, part.stop] for part in window],
        "pixel_nm": list(volume.resolution[1:]),
        "networks": {method: panels[method] for method in METHODS if method in panels},
    }
    with atomic_write(folder / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    return folder / "card.json"


def read_card(data: str, section: int) -> dict[str, Any]:
    """Read the card of a section; empty where there is none."""
    path = GALLERY / f"{data}_{section}" / "card.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def refresh(data: str) -> list[Path]:
    """Draw all sections of a volume anew whose networks have changed.

    Parameters
    ----------
    data : str
        Key of `DATA`.

    Returns
    -------
    list of Path
        The cards that were written; none where the volume or the networks are not at hand.
    """
    source = DATA[data]
    sections = shown_sections(source.split.test)
    cards = {section: read_card(data, section).get("networks", {}) for section in sections}
    stale = {}
    for method, (seed, path) in models_of(data).items():
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        known = [card.get(method, {}) for card in cards.values()]
        if any(one.get("sha256") != sha256 or "affinities" not in one for one in known):
            stale[method] = {"seed": seed, "sha256": sha256, "path": path}
    if not stale:
        return []
    try:
        volume = load_volume(find_volume(source.volume))
    except FileNotFoundError:
        return []
    for found in stale.values():
        model = load_model(found["path"])
        found["threshold"] = model.card["scores"][MAIN]["threshold"]
        found["volume"] = segment_test(model, volume, source.split.test)
    written = []
    for section in sections:
        place = source.split.test.index(section)
        fresh = {
            method: found | {"segments": segments[place], "affinities": affinities[place]}
            for method, found in stale.items()
            for segments, affinities in [found["volume"]]
        }
        written.append(draw_section(data, section, fresh))
    return written


def picture_table() -> str:
    """Write a Markdown table for the README: tissue, truth and found borders on real sections.

    A volume shows one section, the middle one of its test sections, as the better cross-entropy
    segments it, and the best of the U-Nets with MALIS (`report.comparisons.pictured_methods`).

    Returns
    -------
    str
    """
    pairs = {table["key"]: table.get("pictured", []) for table in collect()["tables"]}
    cards = [card for card in gallery_cards(load_runs()) if card["data"] != "synthetic"]
    middle = {card["data"]: card for card in cards}  # sections come in ascending order
    lines = ["| | tissue | ground truth | cross-entropy | with MALIS |", "|---" * 5 + "|"]
    for card in middle.values():
        pair = pairs[card["data"]]
        if len(pair) < 2 or not set(pair) <= set(card["networks"]):
            continue
        place = f"report/figures/gallery/{card['folder']}"
        cells = [f"![tissue]({place}/raw.png)", f"![ground truth]({place}/truth.png)"]
        for method in pair:
            score = card["networks"][method]["scores"]["cremi_score"]
            title = METHODS[method].title.removeprefix("U-Net, ")
            cells.append(f"![{title}]({place}/{method}.png)<br>{title} ({score:.3f})")
        lines.append(f"| {card['title']}, section {card['section']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA), metavar="DATA")
    options = parser.parse_args()
    mpl.use("Agg")
    for data in options.only:
        for card in refresh(data):
            print(card.relative_to(ROOT))


if __name__ == "__main__":
    main()
