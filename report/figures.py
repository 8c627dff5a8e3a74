"""Figures drawn from the results in ``report/results``, and what they share.

    python -m report.figures        those of README and benchmark page anew, as PNG

The report and the slides take them as vectors (`report.build`). Those that only explain are in
`report.diagrams`, pictures of tissue in `report.gallery`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import ndimage

import malis
from data.locate import find_volume
from malis import pictures
from malis.labels import relabel_components
from malis.training import load_volume
from report.record import RESULTS, ROOT
from report.scores import VIEWS
from report.tables import READINGS, SHOWN, comparisons, load_scores

FIGURES = ROOT / "report" / "figures"
WIDTH = 6.3  # inches: the width of the report's text
VECTOR = {
    "svg.fonttype": "path",  # letters as outlines: no font is needed to show them
    "svg.hashsalt": "malis",  # the same drawing, the same file
    "font.size": 8,
    "axes.titlesize": 9,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
}


def save_vector(draw: Callable[..., plt.Figure], path: Path, *arguments: Path) -> None:
    """Draw a figure and write it as SVG, the same bytes every time."""
    with mpl.rc_context(VECTOR):
        figure = draw(*arguments)
        figure.savefig(path, dpi=200, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def draw_pull() -> plt.Figure:
    """Draw what each loss asks of a poor prediction on a patch of the synthetic sample."""
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
    """Draw the time of the pair counts over the number of edges, and over the number of labels."""
    measured = json.loads((results / "benchmark_loss.json").read_text())
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3))
    sizes = sorted(measured["sizes"], key=lambda row: row["edges"])
    edges = np.array([row["edges"] for row in sizes])
    linear = sizes[-1]["pair_counts_s"] * edges / edges[-1]
    counts = {
        "two trees by hg.bpt_canonical": "two_bpt_canonical_s",
        "pair counts, Higra": "pair_counts_s",
        "pair counts, tensor operations": "pair_counts_parallel_s",
        "pair counts, Numba": "pair_counts_numba_s",
    }
    forms = {
        "plain form (table of labels)": "plain_form_s",
        "constrained": "constrained_s",
        "unconstrained": "unconstrained_s",
    }
    panels = ((sizes, "edges", counts), (measured["labels"], "labels", forms))
    for ax, (rows, x, curves) in zip(axes, panels, strict=True):
        for number, (name, column) in enumerate(curves.items()):
            style = {"color": pictures.PALETTE[number], "linestyle": pictures.DASHES[number]}
            points = [(row[x], row[column]) for row in rows if column in row]
            ax.loglog(*zip(*points, strict=True), marker="o", ms=3, label=name, **style)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].loglog(edges, linear, color="0.6", linewidth=1, label="linear")
    axes[0].set(xlabel="edges", ylabel="seconds, one thread")
    shape = " x ".join(map(str, measured["labels"][0]["shape"]))
    axes[1].set(xlabel=f"labels in {shape} voxels", ylabel="seconds")
    for ax in axes:
        ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    figure.tight_layout()
    return figure


def draw_gain(results: Path = RESULTS) -> plt.Figure:
    """Draw by how much MALIS changes the score of cross-entropy, with standard errors over folds.

    A line for each pair of methods, a mark for each reading; from one view at the left, from the
    mean over all views at the right.
    """
    tables = comparisons(load_scores(results))
    names = [
        f"{one['title']},\n{one['labels']}".replace(" in the second", ", 2nd") for one in tables
    ]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.55 * len(tables) + 0.9), sharey=True)
    readings = {key: name for key, name in READINGS.items() if key != "connected_components"}
    for ax, prefix in zip(axes, ("", VIEWS), strict=True):
        for number, (reading, label) in enumerate(readings.items()):
            cells = [
                (line, row)
                for line, table in enumerate(tables)
                for row in table["all_rows"]
                if row["key"] == prefix + reading and not row["open_ended"]
            ]
            ax.errorbar(
                [100 * row["difference"] / row["theirs"] for _, row in cells],
                [line + 0.18 * (number - 1.5) for line, _ in cells],
                xerr=[100 * row["error"] / row["theirs"] for _, row in cells],
                fmt="os^D"[number], ms=4, capsize=2, color=pictures.PALETTE[number], label=label,
            )  # fmt: skip
        ax.axvline(0, color="0.5", linewidth=1, zorder=0)
        for line in range(1, len(tables)):
            ax.axhline(line - 0.5, color="0.9", linewidth=0.8, zorder=0)
        ax.set_title("mean over all views" if prefix else "one view", fontsize=9)
        ax.set_xlabel("change of the CREMI score (%)")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlim(-62, 62)
    axes[0].set_yticks(
        range(len(tables)),
        [name.replace(" in the second", ", 2nd") for name in names],
        fontsize=7.5,
    )
    axes[0].set_ylim(len(tables) - 0.5, -0.5)
    for place, side, text in ((0, "left", "MALIS better"), (1, "right", "worse")):
        style = {"ha": side, "va": "bottom", "fontsize": 7, "color": "0.4"}
        axes[0].text(place, 1, text, transform=axes[0].transAxes, **style)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.tight_layout()
    style = {"frameon": False, "loc": "upper center", "bbox_to_anchor": (0.55, 0.02)}
    figure.legend(handles, labels, ncols=4, **style)
    return figure


def draw_lengths(results: Path = RESULTS) -> plt.Figure:
    """Draw the scores with and without MALIS over the number of steps, a panel a volume.

    Bars are standard errors of the difference over folds, drawn at the scores with MALIS.
    """
    tables = comparisons(load_scores(results), lengths=True)
    volumes = list(dict.fromkeys(table["title"] for table in tables))
    figure, axes = plt.subplots(1, len(volumes), figsize=(WIDTH, 2.3), squeeze=False)
    for ax, title in zip(axes[0], volumes, strict=True):
        own = [table for table in tables if table["title"] == title]
        steps = np.array([table["steps"] for table in own], float)
        for number, reading in enumerate(list(SHOWN)[:2]):
            rows = [next(r for r in table["rows"] if r["key"] == reading) for table in own]
            style = {"ms": 4, "linewidth": 1.2, "color": pictures.PALETTE[number]}
            name = "all views" if reading.startswith(VIEWS) else "one view"
            ax.plot(steps, [r["theirs"] for r in rows], "o--", mfc="white",
                    label=f"cross-entropy, {name}", **style)  # fmt: skip
            ax.errorbar(
                steps, [r["ours"] for r in rows], [r["error"] for r in rows],
                fmt="o-", capsize=2, label=f"both losses, {name}", **style,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xticks(steps, [f"{int(one):,}" for one in steps])
        ax.set(xlabel="steps of training", title=title, ylim=(0, None))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("CREMI score")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.tight_layout()
    style = {"frameon": False, "loc": "upper center", "bbox_to_anchor": (0.5, 0.02)}
    figure.legend(handles, labels, ncols=2, **style)
    return figure


def main() -> None:
    """Draw the figures of README and benchmark page anew."""
    drawings = {"pull": (draw_pull, 160), "cost": (draw_cost, 80)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=drawings, default=list(drawings))
    mpl.use("Agg")
    for name in parser.parse_args().only:
        draw, dpi = drawings[name]
        path = FIGURES / f"{name}.png"
        draw().savefig(path, dpi=dpi, bbox_inches="tight")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
