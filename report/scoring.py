"""Scores of a trained network: every choice on validation sections, the result on test sections."""

from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from cremi_eval import Volume
from cremi_eval.evaluation import NeuronIds, mean_of_sections
from malis.checks import Offsets
from malis.dataset import LabelledVolume, relabel_components
from malis.inference import predict
from malis.segmentation import (
    Hierarchy,
    agglomerate,
    best_threshold,
    fragments,
    threshold_watershed,
)

WATERSHED_THRESHOLDS = np.round(np.arange(0.05, 1, 0.05), 2)


def hierarchies_of_sections(affinities: np.ndarray, offsets: Offsets) -> list[Hierarchy]:
    """Agglomerate every section on its own.

    Parameters
    ----------
    affinities : (C, z, y, x) float32 array
    offsets : (C, 2) integers

    Returns
    -------
    list of Hierarchy
        One a section.
    """
    sections = np.moveaxis(affinities, 1, 0)
    return [agglomerate(one, offsets, fragments(one, offsets)) for one in sections]


def score_network(
    network: nn.Module,
    offsets: Offsets,
    validation: LabelledVolume,
    test: LabelledVolume,
    ignore: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Segment and score sections by agglomeration and by threshold and watershed.

    Parameters
    ----------
    network : nn.Module
        A 2D network that predicts logits.
    offsets : (C, 2) integers
    validation : LabelledVolume
        The sections that choose the thresholds.
    test : LabelledVolume
        The sections that are scored.
    ignore : tuple of int
        Labels that are not scored.

    Returns
    -------
    dict
        For ``"agglomeration"`` and ``"threshold_watershed"`` each: the threshold, its mean CREMI
        score on the validation sections, the scores of each test section and their mean. JSON-able.

    Notes
    -----
    Pieces of one neuron that do not touch within a section are objects of their own: a network
    that sees single sections cannot know that they meet above or below.
    """
    predicted = {
        name: predict(network, part.raw, progress=False)
        for name, part in (("validation", validation), ("test", test))
    }
    truths = {
        name: np.stack([relabel_components(section) for section in part.labels])
        for name, part in (("validation", validation), ("test", test))
    }
    truth = NeuronIds(Volume(truths["test"], test.resolution), ignore_groundtruth=ignore)

    threshold, curve = best_threshold(
        hierarchies_of_sections(predicted["validation"], offsets),
        list(truths["validation"]),
        ignore_groundtruth=ignore,
    )
    cuts = [h.cut(threshold) for h in hierarchies_of_sections(predicted["test"], offsets)]
    results = {
        "agglomeration": {
            "threshold": threshold,
            "validation_cremi": float(curve.cremi[curve.best()]),
            **_scores(truth, np.stack(cuts)),
        }
    }

    choice = NeuronIds(
        Volume(truths["validation"], validation.resolution), ignore_groundtruth=ignore
    )
    errors = []
    for candidate in WATERSHED_THRESHOLDS:
        segments = _watershed(predicted["validation"], offsets, candidate)
        errors.append(mean_of_sections(choice.section_scores(segments)).cremi_score)
    best = int(np.argmin(errors))
    segments = _watershed(predicted["test"], offsets, WATERSHED_THRESHOLDS[best])
    results["threshold_watershed"] = {
        "threshold": float(WATERSHED_THRESHOLDS[best]),
        "validation_cremi": errors[best],
        **_scores(truth, segments),
    }
    return results


def _watershed(affinities: np.ndarray, offsets: Offsets, threshold: float) -> np.ndarray:
    sections = np.moveaxis(affinities, 1, 0)
    return np.stack([threshold_watershed(one, offsets, threshold) for one in sections])


def _scores(truth: NeuronIds, segments: np.ndarray) -> dict[str, Any]:
    sections = truth.section_scores(segments)
    return {
        "sections": [None if one is None else asdict(one) for one in sections],
        "mean": asdict(mean_of_sections(sections)),
    }
