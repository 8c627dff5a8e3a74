"""Figures drawn from the results in ``report/results``: ``python -m report.figures``."""

import json

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from cremi_eval.io import CremiFile
from data.locate import find_volume
from malis import plotting
from malis.checkpoint import load_model
from malis.inference import predict
from malis.segmentation import agglomerate, fragments
from report.configurations import DATA
from report.record import RESULTS, ROOT

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
    threshold = model.card["scores"]["agglomeration"]["threshold"]
    pieces = fragments(affinities, model.offsets)
    segments = agglomerate(affinities, model.offsets, pieces).cut(threshold)
    figure, axes = plotting.panels(["tissue (synthetic)", "affinities", "segmentation"], size=4)
    plotting.show_raw(axes[0], raw)
    plotting.show_affinity(axes[1], affinities.mean(0))
    plotting.show_labels(axes[2], segments, raw)
    return figure


def draw_cost() -> plt.Figure:
    """Draw the time of the pair counts over the number of edges, and over the number of labels.

    Returns
    -------
    Figure
    """
    results = json.loads((RESULTS / "benchmark_loss.json").read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    curves = {
        "two trees by hg.bpt_canonical": "two_bpt_canonical_s",
        "pair counts, Higra": "pair_counts_s",
        "pair counts, tensor operations": "pair_counts_parallel_s",
    }
    rows = sorted(results["sizes"], key=lambda row: row["edges"])
    edges = np.array([row["edges"] for row in rows])
    for number, (name, column) in enumerate(curves.items()):
        style = {"color": plotting.PALETTE[number], "linestyle": plotting.DASHES[number]}
        left.loglog(edges, [row[column] for row in rows], marker="o", ms=3, label=name, **style)
    linear = rows[-1]["pair_counts_s"] * edges / edges[-1]
    left.loglog(edges, linear, color="0.6", linewidth=1, label="linear")
    left.set(xlabel="edges", ylabel="seconds, one thread")

    rows = results["labels"]
    curves = {
        "plain form (table of labels)": "plain_form_s",
        "constrained": "constrained_s",
        "unconstrained": "unconstrained_s",
    }
    for number, (name, column) in enumerate(curves.items()):
        style = {"color": plotting.PALETTE[number], "linestyle": plotting.DASHES[number]}
        points = [(row["labels"], row[column]) for row in rows if column in row]
        right.loglog(*zip(*points, strict=True), marker="o", ms=3, label=name, **style)
    shape = " x ".join(map(str, rows[0]["shape"]))
    right.set(xlabel=f"labels in {shape} voxels", ylabel="seconds")
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def main() -> None:
    """Draw all figures anew."""
    mpl.use("Agg")
    FIGURES.mkdir(exist_ok=True)
    for name, draw in (("road", draw_road), ("cost", draw_cost)):
        path = FIGURES / f"{name}.png"
        draw().savefig(path, dpi=80, bbox_inches="tight")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
