"""How well a network segments volumes whose truth is known, read in the way that suits it best."""

from collections.abc import Iterable, Sequence

import numpy as np

from malis._checks import Offsets
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.own_unet import FullyConvolutional
from malis.inference.tiles import predict
from malis.labels import relabel_components
from malis.segmentation import choose_cut, parts_of
from malis.segmentation.threshold import BACKGROUND
from malis.training.dataset import LabelledVolume


def validation_scores(
    network: FullyConvolutional,
    volumes: Sequence[LabelledVolume],
    offsets: Offsets,
    ignore: Iterable[int] = (),
) -> dict[str, float]:
    """Segment validation volumes with the inside and the threshold that are best for them.

    Parameters
    ----------
    network : FullyConvolutional
        Predicts logits. Where the offsets have two axes, sections are segmented and scored one by
        one; a 2D network may also predict affinities in 3D.
    volumes : sequence of LabelledVolume
        What the network was not trained on; at least one, all of one resolution.
    offsets : (C, ndim) integers
        The edge of each output channel.
    ignore : iterable of int
        True ids to leave out besides 2^64-1 (or -1), e.g. 0 where it means membrane.

    Returns
    -------
    dict
        "threshold" and "inside", see `malis.segmentation.choose_cut`, and with them the mean
        "voi_split", "voi_merge", "adapted_rand_error" and "cremi_score"; for instance for
        ``validate`` of `malis.training.train`.

    Raises
    ------
    ValueError
        If there is no volume, or all of its voxels are left out.

    Notes
    -----
    Pieces of one object that do not touch within the volume, or the section, are objects of their
    own: the network cannot know that they meet elsewhere.
    """
    if not volumes:
        raise ValueError("there is no volume to validate on")
    ignored, ndim = [BACKGROUND, *ignore], len(offsets[0])
    parts, truths = [], []
    for volume in volumes:
        raw = stack_neighbours(volume.raw, neighbours_of(network))
        parts += parts_of(predict(network, raw, progress=False), ndim)
        truths += [_pieces(ids, ignored) for ids in parts_of(volume.labels, ndim)]
    choice = choose_cut(
        parts,
        truths,
        offsets,
        sampling=volumes[0].resolution[-ndim:],
    )
    curve, best = choice.curve, choice.curve.best()
    return {
        "threshold": choice.threshold,
        "inside": choice.inside,
        "voi_split": float(curve.voi_split[best]),
        "voi_merge": float(curve.voi_merge[best]),
        "adapted_rand_error": float(curve.rand[best]),
        "cremi_score": float(curve.cremi[best]),
    }


def _pieces(ids: np.ndarray, ignored: Sequence[int]) -> np.ndarray:
    """Give connected pieces ids of their own, and what is left out CREMI's id for it."""
    pieces = relabel_components(ids).astype(np.uint64)
    hidden = np.array([label % 2**64 for label in ignored], np.uint64)
    return np.where(np.isin(ids, hidden), np.uint64(BACKGROUND), pieces)
