"""Figures drawn from the results in ``report/results``: ``python -m report.figures``.

The report and the slides take them as vectors (`report.build`), README and benchmark page as PNG.
Those that only explain are in `report.diagrams`, pictures of tissue come from `report.gallery`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import ndimage

import malis
from cremi_eval.io import CremiFile
from data.locate import find_volume
from malis import pictures
from malis.inference import predict
from malis.labels import relabel_components
from malis.segmentation import hierarchy_of
from malis.training import load_volume
from malis.training.checkpoint import load_model
from report.canvas import WIDTH, add_legend, grid
from report.configurations import DATA, METHODS
from report.gain_figures import draw_lengths, draw_readings
from report.gathered import QUALITY_TITLES
from report.record import RESULTS, ROOT
from report.runs import MAIN, load_runs, score_of, title_of

FIGURES = ROOT / "report" / "figures"
MODEL = ROOT / "data" / "models" / "synthetic.model"


def draw_road() -> plt.Figure:
    """Draw the way from a section to its segments, with the network of the repository.

    Returns
    -------
    Figure
    """
    model = load_model(MODEL)
    with CremiFile(find_volume("synthetic"), "r") as file:
        raw = file.read_raw().data[DATA["synthetic"].split.test.start]
    affinities = predict(model.network, raw, progress=False)
    threshold = model.card["scores"]["mean_linkage"]["threshold"]
    segments = hierarchy_of(affinities, model.offsets).cut(threshold)
    figure, axes = pictures.panels(["tissue (synthetic)", "affinities", "segmentation"], size=4)
    pictures.show_raw(axes[0], raw)
    pictures.show_affinity(axes[1], affinities.mean(0))
    pictures.show_labels(axes[2], segments, raw)
    return figure


def draw_pull() -> plt.Figure:
    """Draw what each loss asks of a poor prediction on a patch of the synthetic sample.

    Returns
    -------
    Figure
    """
    volume = load_volume(find_volume("synthetic"))
    patch = np.s_[60:156, 60:156]
    section = len(volume.raw) // 2
    raw, ids = volume.raw[section][patch], relabel_components(volume.labels[section][patch])
    offsets = malis.nearest_offsets(2)
    bright = ndimage.gaussian_filter(raw / 255.0, 1.0)
    bright = np.clip((bright - bright.min()) / np.ptp(bright), 0.05, 0.95)
    guess = np.full((2, *raw.shape), 0.05, np.float32)
    guess[0, 1:] = np.minimum(bright[1:], bright[:-1])
    guess[1, :, 1:] = np.minimum(bright[:, 1:], bright[:, :-1])
    losses = {
        "(b) cross-entropy": malis.AffinityCrossEntropy(offsets),
        "(c) maximin loss, 1,000 pairs": malis.MaximinLoss(
            offsets, n_pairs=1000, generator=torch.Generator().manual_seed(0)
        ),
        "(d) constrained MALIS, all pairs": malis.MalisLoss(offsets),
    }
    figure, axes = pictures.panels(["(a) tissue and truth", *losses], columns=4, size=3)
    pictures.show_borders(axes[0], raw, ids, pictures.TRUTH, thickness=1)
    for ax, loss in zip(axes[1:], losses.values(), strict=True):
        prediction = torch.from_numpy(guess)[None].requires_grad_()
        loss(prediction, torch.from_numpy(ids.astype(np.int64))[None]).backward()
        pictures.show_pull(ax, raw, prediction.grad[0].numpy(), size=300)
    return figure


def draw_cost(results: Path = RESULTS) -> plt.Figure:
    """Draw the time of the pair counts over the number of edges, and over the number of labels.

    Parameters
    ----------
    results : Path
        Folder of the results.

    Returns
    -------
    Figure
    """
    measured = json.loads((results / "benchmark_loss.json").read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3))
    curves = {
        "two trees by hg.bpt_canonical": "two_bpt_canonical_s",
        "pair counts, Higra": "pair_counts_s",
        "pair counts, tensor operations": "pair_counts_parallel_s",
        "pair counts, Numba": "pair_counts_numba_s",
    }
    rows = sorted(measured["sizes"], key=lambda row: row["edges"])
    edges = np.array([row["edges"] for row in rows])
    for number, (name, column) in enumerate(curves.items()):
        style = {"color": pictures.PALETTE[number], "linestyle": pictures.DASHES[number]}
        left.loglog(edges, [row[column] for row in rows], marker="o", ms=3, label=name, **style)
    linear = rows[-1]["pair_counts_s"] * edges / edges[-1]
    left.loglog(edges, linear, color="0.6", linewidth=1, label="linear")
    left.set(xlabel="edges", ylabel="seconds, one thread")

    rows = measured["labels"]
    curves = {
        "plain form (table of labels)": "plain_form_s",
        "constrained": "constrained_s",
        "unconstrained": "unconstrained_s",
    }
    for number, (name, column) in enumerate(curves.items()):
        style = {"color": pictures.PALETTE[number], "linestyle": pictures.DASHES[number]}
        points = [(row["labels"], row[column]) for row in rows if column in row]
        right.loglog(*zip(*points, strict=True), marker="o", ms=3, label=name, **style)
    shape = " x ".join(map(str, rows[0]["shape"]))
    right.set(xlabel=f"labels in {shape} voxels", ylabel="seconds")
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def draw_phases(results: Path = RESULTS) -> plt.Figure:
    """Draw where the time of the pair counts goes, for both forms, as parts of the whole.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure
    """
    loss = json.loads((results / "benchmark_loss.json").read_text())
    parallel = json.loads((results / "benchmark_parallel_cpu.json").read_text())
    largest = max(loss["sizes"], key=lambda row: row["edges"])
    higra = dict(largest["phases_s"])
    higra["counting"] = max(0.0, largest["pair_counts_s"] - sum(higra.values()))
    tensors = max(parallel["cases"], key=lambda case: np.prod(case["shape"][-3:]))["steps_s"]
    rounds = "grid_hierarchy", "list_hierarchy"
    names = {
        "Borůvka rounds": sum(tensors.get(name, 0) for name in rounds),
        "Kruskal's merges": tensors["kruskal_merges"],
        "sizes and pairs": tensors["pair_products"],
    }
    names["rest"] = sum(tensors.values()) - sum(names.values())
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 2.1))
    for ax, title, parts in ((axes[0], "Higra", higra), (axes[1], "tensors", names)):
        start, total, below = 0.0, sum(parts.values()), 0
        for number, (name, seconds) in enumerate(parts.items()):
            share = seconds / total
            colour = pictures.PALETTE[number]
            ax.barh(0, share, left=start, color=colour, edgecolor="white", height=0.7)
            text = f"{name} {share:.0%}"
            if share > 0.14:
                ax.text(start + share / 2, 0, text, ha="center", va="center", color="black")
            else:
                place, shift = (start + share / 2, -0.35), (0, -2 - 9 * below)
                ax.annotate(text, place, shift, "data", "offset points", ha="center", va="top")
                below += 1
            start += share
        ax.set_yticks([0], [title])
        ax.set_xticks([])
        ax.set_xlim(0, 1)
        ax.set_ylim(-1.0, 0.4)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    figure.tight_layout(h_pad=0.2)
    return figure


def draw_scores(results: Path = RESULTS) -> plt.Figure | None:
    """Draw the CREMI score of every run, a panel a volume, a row a method.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while there is no run.
    """
    found = load_runs(results)
    measured = [data for data in DATA if any(key[0] == data for key in found)]
    if not measured:
        return None
    methods = [method for method in METHODS if any(key[1] == method for key in found)]
    figure, axes = grid(measured, height=0.5 + 0.2 * len(methods), sharey=True)
    for ax, data in zip(axes, measured, strict=False):
        values = {
            METHODS[method].title: [
                score
                for run in found.get((data, method), {}).values()
                if (score := score_of(run, "cremi_score")) is not None
            ]
            for method in methods
        }
        pictures.plot_scores(ax, values, "CREMI score")
        ax.set_title(title_of(data), fontsize=8)  # whatever the fonts of a notebook are
        ax.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    return figure


def draw_split_merge(results: Path = RESULTS) -> plt.Figure | None:
    """Draw VOI merge over VOI split of the test sections, one curve a method (its first seed).

    Discs mark the thresholds that the validation sections chose.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while no run carries its curve.
    """
    first = {
        key: next(iter(by_seed.values()))["scores"][MAIN]
        for key, by_seed in load_runs(results).items()
    }
    first = {key: scores for key, scores in first.items() if "test_curve" in scores}
    drawn = [data for data in DATA if any(key[0] == data for key in first)]
    methods = [method for method in METHODS if any(key[1] == method for key in first)]
    if not drawn:
        return None
    figure, axes = grid(drawn, height=2.0)
    for ax, data in zip(axes, drawn, strict=False):
        curves, reach = {}, 0.0
        for number, method in enumerate(methods):
            scores = first.get((data, method), {})
            curve = scores.get("test_curve", {"voi_split": [], "voi_merge": []})
            curves[METHODS[method].title] = curve["voi_split"], curve["voi_merge"]
            if scores:
                chosen = scores["mean"]["voi_split"], scores["mean"]["voi_merge"]
                colour = pictures.PALETTE[number % len(pictures.PALETTE)]
                ax.plot(*chosen, "o", color=colour, markeredgecolor="black", ms=5, zorder=3)
                reach = max(reach, 2.2 * max(chosen))
        pictures.plot_split_merge(ax, curves)
        ax.get_legend().remove()
        ax.set(xlim=(0, reach), ylim=(0, reach))
        ax.set_title(title_of(data))
    figure.tight_layout()
    add_legend(figure, axes[0])
    return figure


def draw_learning(results: Path = RESULTS) -> plt.Figure | None:
    """Draw training losses above validation scores, a column a volume, one run a method.

    Losses are relative to where they began. Runs that carry no validation scores leave the lower
    panel empty; without any, there is no lower row.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure or None
        None while there is no run.
    """
    found = load_runs(results)
    first = {key: next(iter(by_seed.values())) for key, by_seed in found.items()}
    measured = [data for data in DATA if any(key[0] == data for key in first)]
    methods = [method for method in METHODS if any(key[1] == method for key in first)]
    if not measured:
        return None

    def loss(run: dict[str, Any]) -> tuple[list[float], list[float]]:
        losses = np.array(run["learning_curve"]["loss"])
        return run["learning_curve"]["step"], (losses / losses[0]).tolist()

    def validation(run: dict[str, Any]) -> tuple[list[float], list[float]]:
        content = run.get("validation_curve", {})
        return content.get("step", []), content.get("cremi_score", [])

    rows = [("loss : first loss", loss)]
    if any(validation(run)[0] for run in first.values()):
        rows.append(("validation CREMI", validation))
    figure, axes = plt.subplots(
        len(rows), len(measured), figsize=(WIDTH, 0.5 + 1.5 * len(rows)), squeeze=False
    )
    for row, (label, curve) in zip(axes, rows, strict=True):
        for ax, data in zip(row, measured, strict=True):
            curves = {
                METHODS[m].title: curve(first[data, m]) if (data, m) in first else ([], [])
                for m in methods
            }
            pictures.plot_histories(ax, curves, label if ax is row[0] else "")
            ax.get_legend().remove()
            ax.set(xlim=(0, None), ylim=(0, None))
            best = min((min(values) for _, values in curves.values() if values), default=0)
            if curve is validation and best:
                ax.set_ylim(0.8 * best, min(ax.get_ylim()[1], 4 * best))
            for m in methods:
                if len(METHODS[m].stages) > 1 and (data, m) in first:  # where the loss changes
                    ax.axvline(first[data, m]["steps"] / 2, color="0.6", ls=":", lw=0.8, zorder=0)
            ax.locator_params(axis="x", nbins=2)
            if label == rows[0][0]:
                ax.set_title(title_of(data).replace(", ", ",\n"), fontsize=8)
            if label != rows[-1][0]:
                ax.set_xlabel("")
    figure.tight_layout(w_pad=0.4)
    add_legend(figure, axes[0][0])
    return figure


def draw_waterz(results: Path = RESULTS) -> plt.Figure:
    """Draw our mean CREMI score over that of waterz, with standard errors.

    Parameters
    ----------
    results : Path

    Returns
    -------
    Figure
    """
    quality = json.loads((results / "segmentation_quality.json").read_text())
    ratios = quality["times_waterz"]
    names = {"mean": "mean", "quantile75": "75 % quantile", "quantile75_max": "quantile of maxima"}
    names = {key: name for key, name in names.items() if key in next(iter(ratios.values()))}
    figure, ax = plt.subplots(figsize=(WIDTH, 2.1))
    for number, (function, name) in enumerate(names.items()):
        rows = [ratios[data][function] for data in ratios]
        ax.errorbar(
            np.arange(len(rows)) + 0.2 * (number - 1),
            [row["cremi_score"] for row in rows],
            [row["cremi_score_standard_error"] for row in rows],
            fmt="os^"[number], ms=4, capsize=3, color=pictures.PALETTE[number], label=name,
        )  # fmt: skip
    ax.axhline(1, color="0.5", linewidth=1)
    ax.set_xticks(range(len(ratios)), [QUALITY_TITLES.get(data, data) for data in ratios])
    ax.set_ylabel("CREMI score, ours : waterz")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.2))
    return figure


def main() -> None:
    """Draw the figures of README and benchmark page anew."""
    drawings = {
        "road": (draw_road, 80),
        "pull": (draw_pull, 80),
        "cost": (draw_cost, 80),
        "readings": (draw_readings, 110),
        "lengths": (draw_lengths, 110),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=drawings, default=list(drawings))
    mpl.use("Agg")
    FIGURES.mkdir(exist_ok=True)
    for name in parser.parse_args().only:
        draw, dpi = drawings[name]
        path = FIGURES / f"{name}.png"
        draw().savefig(path, dpi=dpi, bbox_inches="tight")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
