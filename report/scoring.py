"""Scores of a trained network: every choice on validation sections, the result on test sections."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds, Scores, mean_of_sections
from malis._checks import Offsets
from malis.inference import predict
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.views import predict_views
from malis.labels import relabel_components
from malis.segmentation import (
    agglomerate,
    best_threshold,
    fragments_of,
    parts_of,
    threshold_watershed,
)
from malis.segmentation.threshold import ThresholdCurve
from malis.training.dataset import LabelledVolume
from report.runs import VIEWS

# Finer towards 1: a network that is sure of itself is best cut where hardly anything is left above.
WATERSHED_THRESHOLDS = np.concatenate(
    [np.arange(5, 95, 5) / 100, 1 - np.array([50, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1]) / 1000]
).round(4)
LINKAGES: dict[str, dict[str, Any]] = {
    "mean_linkage": {"linkage": "mean"},
    "single_linkage": {"linkage": "single"},
    "quantile75": {"linkage": "quantile", "quantile": 0.75},
}
CURVE_POINTS = 60
# Of curves over thresholds. Chosen by leaving out one validation section at a time: it makes the
# threshold that the others choose better for the one left out.
SMOOTHING = 0.15


@dataclass(frozen=True)
class Sample:
    """What is segmented and scored in one piece: a section, or a volume.

    Attributes
    ----------
    affinities : (C, *spatial) float32 array
    truth : (*spatial) integer array
        Every connected piece an object of its own.
    fragments : (*spatial) integer array
    """

    affinities: np.ndarray
    truth: np.ndarray
    fragments: np.ndarray


def make_samples(
    network: nn.Module, offsets: Offsets, part: LabelledVolume, *, averaged: bool = False
) -> list[Sample]:
    """Predict a part of a volume: one sample a section, or a single one for a 3D network.

    Parameters
    ----------
    network : nn.Module
        A 2D or 3D network that predicts logits.
    offsets : (C, ndim) integers
    part : LabelledVolume
    averaged : bool
        Whether the mean over all views of the volume is taken, see `malis.inference.views`; else
        one view.

    Returns
    -------
    list of Sample

    Notes
    -----
    Pieces of one neuron that do not touch within the sample are objects of their own: who sees
    nothing else cannot know that they meet outside.
    """
    raw = stack_neighbours(part.raw, neighbours_of(network))
    if averaged:
        predicted = predict_views(network, raw, offsets, progress=False)
    else:
        predicted = predict(network, raw, progress=False)
    ndim = len(offsets[0])
    affinities = parts_of(predicted, ndim)
    pieces = fragments_of(affinities, offsets, sampling=part.resolution[-ndim:])
    return [
        Sample(one, relabel_components(truth), own)
        for one, truth, own in zip(affinities, parts_of(part.labels, ndim), pieces, strict=True)
    ]


def choose_cut(
    samples: list[Sample], offsets: Offsets, ignore: tuple[int, ...], **linkage: Any
) -> tuple[float, ThresholdCurve]:
    """Agglomerate, and find the threshold whose cuts have the best CREMI score.

    Parameters
    ----------
    samples : list of Sample
        Of validation sections.
    offsets : (C, ndim) integers
    ignore : tuple of int
        Labels that are not scored.
    **linkage
        Arguments of `agglomerate`.

    Returns
    -------
    threshold : float
    curve : ThresholdCurve
    """
    hierarchies = [agglomerate(s.affinities, offsets, s.fragments, **linkage) for s in samples]
    return best_threshold(
        hierarchies,
        [s.truth for s in samples],
        smoothing=SMOOTHING,
        ignore_groundtruth=ignore,
    )


def score_network(
    network: nn.Module,
    offsets: Offsets,
    validation: LabelledVolume,
    test: LabelledVolume | None,
    ignore: tuple[int, ...] = (),
    linkage: str = "mean_linkage",
) -> dict[str, Any]:
    """Segment and score by agglomeration with three linkages, and by threshold and watershed.

    Parameters
    ----------
    network : nn.Module
        A 2D or 3D network that predicts logits.
    offsets : (C, ndim) integers
    validation : LabelledVolume
        The sections that choose the thresholds.
    test : LabelledVolume, optional
        The sections that are scored; None where only the choice is of interest.
    ignore : tuple of int
        Labels that are not scored.
    linkage : str
        Key of `LINKAGES`; what is found by it stands under ``"agglomeration"``, too.

    Returns
    -------
    dict
        For ``"agglomeration"``, each key of `LINKAGES`, and for ``"threshold_watershed"``: the
        threshold, its mean CREMI score on the validation sections and, with test sections, the
        scores of each and their mean; for the linkages also the split-merge curve on validation
        and, to look at, on test sections; for threshold and watershed all candidates. All of it
        again with the prefix `VIEWS`, from affinities that are the mean over all views. JSON-able.
    """
    results = {}
    for prefix, averaged in (("", False), (VIEWS, True)):
        choice = make_samples(network, offsets, validation, averaged=averaged)
        report = [] if test is None else make_samples(network, offsets, test, averaged=averaged)
        found = score_samples(choice, report, offsets, ignore)
        found = {"agglomeration": found[linkage], **found}
        results |= {f"{prefix}{kind}": part for kind, part in found.items()}
    return results


def score_samples(
    choice: list[Sample], report: list[Sample], offsets: Offsets, ignore: tuple[int, ...]
) -> dict[str, Any]:
    """Choose thresholds on some samples and score others, for every way to segment them.

    Parameters
    ----------
    choice : list of Sample
        Of validation sections.
    report : list of Sample
        Of test sections; may be empty.
    offsets : (C, ndim) integers
    ignore : tuple of int
        Labels that are not scored.

    Returns
    -------
    dict
        See `score_network`.
    """
    results = {}
    for name, settings in LINKAGES.items():
        threshold, curve = choose_cut(choice, offsets, ignore, **settings)
        results[name] = {
            "threshold": threshold,
            "validation_cremi": float(curve.cremi[curve.best(smoothing=SMOOTHING)]),
            "validation_curve": _thin_curve(curve),
        }
        if report:
            built = [agglomerate(s.affinities, offsets, s.fragments, **settings) for s in report]
            results[name] |= _scores(report, [h.cut(threshold) for h in built], ignore)
            curve = best_threshold(built, [s.truth for s in report], ignore_groundtruth=ignore)[1]
            results[name]["test_curve"] = _thin_curve(curve)

    def watershed(samples: list[Sample], threshold: float) -> list[np.ndarray]:
        return [threshold_watershed(s.affinities, offsets, threshold) for s in samples]

    errors = [
        mean_of_sections(_score_each(choice, watershed(choice, candidate), ignore)).cremi_score
        for candidate in WATERSHED_THRESHOLDS
    ]
    best = int(np.argmin(errors))
    threshold = float(WATERSHED_THRESHOLDS[best])
    results["threshold_watershed"] = {
        "threshold": threshold,
        "validation_cremi": errors[best],
        "candidates": {"threshold": WATERSHED_THRESHOLDS.tolist(), "validation_cremi": errors},
    }
    if report:
        results["threshold_watershed"] |= _scores(report, watershed(report, threshold), ignore)
    return results


def validator(
    offsets: Offsets, validation: LabelledVolume, ignore: tuple[int, ...]
) -> Callable[[nn.Module], dict[str, float]]:
    """Make a function for `malis.training.train` that scores the best cut on validation sections.

    Parameters
    ----------
    offsets : (C, ndim) integers
    validation : LabelledVolume
    ignore : tuple of int
        Labels that are not scored.

    Returns
    -------
    callable
        ``validate(network)`` → ``{"cremi_score": ...}``.
    """

    def validate(network: nn.Module) -> dict[str, float]:
        samples = make_samples(network, offsets, validation)
        curve = choose_cut(samples, offsets, ignore, linkage="mean")[1]
        return {"cremi_score": float(curve.cremi[curve.best(smoothing=SMOOTHING)])}

    return validate


def _score_each(
    samples: list[Sample], segments: list[np.ndarray], ignore: tuple[int, ...]
) -> list[Scores | None]:
    scores: list[Scores | None] = []
    for sample, segment in zip(samples, segments, strict=True):
        flat = sample.truth.ndim == 2
        truth = sample.truth[None] if flat else sample.truth
        ids = NeuronIds(Volume(truth, (1, 1, 1)), ignore_groundtruth=ignore)
        scores += ids.section_scores(segment[None]) if flat else [ids.whole_volume_scores(segment)]
    return scores


def _scores(
    samples: list[Sample], segments: list[np.ndarray], ignore: tuple[int, ...]
) -> dict[str, Any]:
    sections = _score_each(samples, segments, ignore)
    return {
        "sections": [None if one is None else asdict(one) for one in sections],
        "mean": asdict(mean_of_sections(sections)),
    }


def _thin_curve(curve: ThresholdCurve) -> dict[str, list[float]]:
    """Keep some thresholds of a curve, the best one among them."""
    rows = np.linspace(0, len(curve.thresholds) - 1, CURVE_POINTS).round().astype(int)
    rows = np.unique(np.append(rows, curve.best(smoothing=SMOOTHING)))
    return {
        name: np.asarray(getattr(curve, name))[rows].round(5).tolist()
        for name in ("thresholds", "voi_split", "voi_merge", "cremi")
    }
