"""How well a network segments volumes whose truth is known, at its best threshold."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from malis._checks import Offsets
from malis.inference.neighbours import neighbours_of, stack_neighbours
from malis.inference.tiles import predict
from malis.labels import relabel_components
from malis.segmentation import Hierarchy, best_threshold, hierarchies_of, parts_of
from malis.segmentation.threshold import BACKGROUND
from malis.training.dataset import LabelledVolume
from unet.network import FullyConvolutional


def validation_scores(
    network: FullyConvolutional,
    volumes: Sequence[LabelledVolume],
    offsets: Offsets,
    ignore: Iterable[int] = (),
) -> dict[str, float]:
    """Segment validation volumes at the one threshold that is best for them.

    Parameters
    ----------
    network : FullyConvolutional
        Predicts logits. If it is a 2D network, sections are segmented and scored one by one.
    volumes : sequence of LabelledVolume
        What the network was not trained on; at least one.
    offsets : (C, ndim) integers
        The edge of each output channel.
    ignore : iterable of int
        True ids to leave out besides 2^64-1 (or -1), e.g. 0 where it means membrane.

    Returns
    -------
    dict
        "threshold", and the mean "voi_split", "voi_merge", "adapted_rand_error" and "cremi_score"
        at it; for instance for ``validate`` of `malis.training.train`.

    Raises
    ------
    ValueError
        If there is no volume, or all of its voxels are left out.

    Notes
    -----
    Pieces of one object that do not touch within the volume, or the section, are objects of their
    own: the network cannot know that they meet elsewhere.
    """
    ignored = [BACKGROUND, *ignore]
    pairs = [pair for volume in volumes for pair in _segmented(network, volume, offsets)]
    hierarchies = [hierarchy for hierarchy, _ in pairs]
    threshold, curve = best_threshold(hierarchies, [_pieces(ids, ignored) for _, ids in pairs])
    best = curve.best()
    return {
        "threshold": threshold,
        "voi_split": float(curve.voi_split[best]),
        "voi_merge": float(curve.voi_merge[best]),
        "adapted_rand_error": float(curve.rand[best]),
        "cremi_score": float(curve.cremi[best]),
    }


def _segmented(
    network: FullyConvolutional, volume: LabelledVolume, offsets: Offsets
) -> Iterator[tuple[Hierarchy, np.ndarray]]:
    """Agglomerate a volume, or its sections if the offsets lie within them; with the truth."""
    raw = stack_neighbours(volume.raw, neighbours_of(network))
    ndim = len(offsets[0])
    parts = parts_of(predict(network, raw, progress=False), ndim)
    hierarchies = hierarchies_of(parts, offsets, sampling=volume.resolution[-ndim:])
    yield from zip(hierarchies, parts_of(volume.labels, ndim), strict=True)


def _pieces(ids: np.ndarray, ignored: Sequence[int]) -> np.ndarray:
    """Give connected pieces ids of their own, and what is left out CREMI's id for it."""
    pieces = relabel_components(ids).astype(np.uint64)
    hidden = np.array([label % 2**64 for label in ignored], np.uint64)
    return np.where(np.isin(ids, hidden), np.uint64(BACKGROUND), pieces)
