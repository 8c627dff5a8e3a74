"""Scores of a trained network: every choice on validation sections, the result on test sections."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds, Scores, mean_of_sections
from malis.inference import predict
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.views import predict_views
from malis.labels import relabel_components
from malis.segmentation import (
    Hierarchy,
    choose_cut,
    connected_components,
    hierarchies_of,
    parts_of,
    segment,
    threshold_watershed,
)
from malis.segmentation.recipe import are_sections_apart
from malis.training.dataset import LabelledVolume
from report.configurations import Data

LINKAGES: dict[str, dict[str, Any]] = {
    "mean_linkage": {"linkage": "mean"},
    "single_linkage": {"linkage": "single"},
    "quantile75": {"linkage": "quantile", "quantile": 0.75},
}
SIMPLE: dict[str, Callable[..., np.ndarray]] = {
    "threshold_watershed": threshold_watershed,
    "connected_components": connected_components,
}
# Of the simple methods. Finer towards 1: a network that is sure of itself is best cut where hardly
# anything is left above.
THRESHOLDS = np.concatenate(
    [np.arange(5, 95, 5) / 100, 1 - np.array([50, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1]) / 1000]
).round(4)
VIEWS = "views_"  # before the names of what is found with the mean over all views
TILE = 1024  # pixels that a 2D network predicts in one piece, a section of AC3
# Of curves over thresholds. Chosen by leaving out one validation section at a time: it makes the
# threshold that the others choose better for the one left out.
SMOOTHING = 0.15
Row = dict[str, Any]


class Samples(NamedTuple):
    """What is segmented and scored in one piece each: sections, or one volume."""

    affinities: list[np.ndarray]  # (C, *spatial) float32
    truths: list[np.ndarray]  # (*spatial) integers
    source: Data
    resolution: tuple[float, ...]  # of a voxel, in nm

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the recipe of the segmentation asks."""
        return {"sampling": self.resolution}

    def agglomerated(self, **linkage: Any) -> list[Hierarchy]:
        """Build the hierarchies of all samples."""
        settings = {**self.settings, **linkage}
        return hierarchies_of(self.affinities, self.source.offsets, **settings)

    def simply(self, name: str, threshold: float) -> list[np.ndarray]:
        """Segment all samples by one of `SIMPLE`; watersheds of thick sections are linked."""
        shape, offsets = self.affinities[0].shape[1:], np.array(self.source.offsets)
        if name == "threshold_watershed" and are_sections_apart(shape, offsets, self.resolution)[1]:
            across = offsets[:, 0] != 0
            settings = {"offsets": offsets[~across], "method": name, "threshold": threshold}
            return [segment(one[~across], **settings) for one in self.affinities]
        return [SIMPLE[name](one, offsets, threshold) for one in self.affinities]

    def scores(self, segments: Sequence[np.ndarray]) -> list[Scores | None]:
        """Score segmentations, one a sample; None where nothing is to be scored."""
        found: list[Scores | None] = []
        for truth, labels in zip(self.truths, segments, strict=True):
            flat = truth.ndim == 2
            volume = Volume(truth[None] if flat else truth, (1, 1, 1))
            ids = NeuronIds(volume, ignore_groundtruth=self.source.ignore)
            one = labels[None] if flat else labels
            found += ids.section_scores(one) if flat else [ids.whole_volume_scores(one)]
        return found


def make_samples(
    network: nn.Module, source: Data, part: LabelledVolume, *, averaged: bool = False
) -> Samples:
    """Predict a part of a volume, from one view or as the mean over all of them."""
    raw = stack_neighbours(part.raw, neighbours_of(network))
    tile = TILE if source.network_ndim == 2 else None
    if averaged:
        predicted = predict_views(network, raw, source.offsets, tile=tile, progress=False)
    else:
        predicted = predict(network, raw, tile=tile, progress=False)
    ndim = len(source.patch)
    truths = parts_of(part.labels, ndim)
    if source.relabel:
        truths = [relabel_components(truth) for truth in truths]
    return Samples(parts_of(predicted, ndim), truths, source, part.resolution[-ndim:])


def score_network(
    network: nn.Module, source: Data, validation: LabelledVolume, test: LabelledVolume | None
) -> list[Row]:
    """Segment and score by agglomeration with three linkages, and by two simpler methods.

    Validation sections choose the thresholds; without ``test`` only the choice is of interest.
    Return rows of scores for `report.record.add_rows` that lack their run; test sections are
    counted from 0. With the prefix `VIEWS`, a reading is of the mean over all views.
    """
    scores: list[Row] = []
    for prefix, averaged in (("", False), (VIEWS, True))[: 1 + source.views]:
        choice = make_samples(network, source, validation, averaged=averaged)
        report = None if test is None else make_samples(network, source, test, averaged=averaged)
        for name in (*LINKAGES, *SIMPLE):
            score = _agglomerated if name in LINKAGES else _thresholded
            scores += [{"reading": prefix + name, **row} for row in score(name, choice, report)]
    return scores


def _agglomerated(name: str, choice: Samples, report: Samples | None) -> list[Row]:
    source, linkage = choice.source, LINKAGES[name]
    inside, threshold, _ = choose_cut(
        choice.affinities,
        choice.truths,
        source.offsets,
        **choice.settings,
        smoothing=SMOOTHING,
        ignore_groundtruth=source.ignore,
        **linkage,
    )

    def scored(samples: Samples) -> list[Scores | None]:
        hierarchies = samples.agglomerated(inside=inside, **linkage)
        return samples.scores([one.cut(threshold, source.absorb) for one in hierarchies])

    row = {"threshold": threshold, "inside": inside, "open_ended": False}
    validated = mean_of_sections(scored(choice)).cremi_score
    scores = [{**row, "part": "validation", "cremi_score": validated}]
    return scores if report is None else scores + _tested(row, scored(report))


def _thresholded(name: str, choice: Samples, report: Samples | None) -> list[Row]:
    segmented = (choice.simply(name, threshold) for threshold in THRESHOLDS)
    errors = [mean_of_sections(choice.scores(one)).cremi_score for one in segmented]
    best = int(np.argmin(errors))
    threshold = float(THRESHOLDS[best])
    row = {"threshold": threshold, "open_ended": best == len(THRESHOLDS) - 1}
    scores = [{**row, "part": "validation", "cremi_score": errors[best]}]
    if report is not None:
        scores += _tested(row, report.scores(report.simply(name, threshold)))
    return scores


def _tested(row: Row, found: list[Scores | None]) -> list[Row]:
    return [
        {**row, "part": "test", "section": section, **asdict(one)}
        for section, one in enumerate(found)
        if one is not None
    ]
