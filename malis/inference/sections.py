"""Affinities of a volume that are predicted section by section, when they are read.

The affinities of a volume take four bytes a voxel and channel. Whoever needs one section at a time
never has to hold them all.
"""

from typing import Any

import numpy as np
from tqdm import tqdm

from malis._checks import Offsets
from malis.inference.own_unet import FullyConvolutional
from malis.inference.tiles import predict
from malis.inference.views import predict_views

AHEAD = 4  # sections that are seen from all sides together, as each needs the one before it


class PredictedSections:
    """What a 2D network predicts of a volume, (C, z, y, x) float32, to be read with ``[:, z]``.

    Parameters
    ----------
    net : FullyConvolutional
        Predicts sections; see `malis.inference.predict`.
    volume : (z, y, x) array or dataset, or a SectionStack
        Sections, or sections with their neighbours, see `malis.inference.neighbours`.
    offsets : (C, 2) or (C, 3) integers, optional
        Average all views, see `malis.inference.views.predict_views`, which asks for them.
    progress : bool
        Show a progress bar, a step for every section that is read for the first time.
    **settings
        Other arguments of `predict`, but for ``out``.
    """

    def __init__(
        self,
        net: FullyConvolutional,
        volume: Any,
        offsets: Offsets | None = None,
        *,
        progress: bool = True,
        **settings: Any,
    ) -> None:
        self.net, self.volume, self.offsets, self.settings = net, volume, offsets, settings
        self.shape = (net.out_channels, *volume.shape[-3:])
        self.dtype = np.dtype(np.float32)
        # A view gives edges back to the volume only if it has the sections at both of their ends.
        self._before = int(offsets is not None and len(offsets[0]) == 3)
        self._ahead = AHEAD if self._before else 1
        self._start, self._held = 0, np.zeros((0, 0))
        self._bar = tqdm(total=self.shape[1], desc="predict", unit="section", disable=not progress)
        self._read: set[int] = set()

    def __getitem__(self, index: Any) -> np.ndarray:
        """Predict a section, (C, y, x) float32, or with ``...`` all of them."""
        if index is Ellipsis:
            return np.stack([self[:, z] for z in range(self.shape[1])], axis=1)
        channels, z = index
        if not self._start <= z < self._start + self._held.shape[1]:
            self._start, self._held = z, self._predict(z, min(z + self._ahead, self.shape[1]))
        if z not in self._read:
            self._read.add(z)
            self._bar.update()
            if len(self._read) == self.shape[1]:
                self._bar.close()
        return self._held[channels, z - self._start]

    def _predict(self, start: int, stop: int) -> np.ndarray:
        first = max(start - self._before, 0)
        stacked = (slice(None),) * (self.net.in_channels > 1)
        raw = self.volume[(*stacked, slice(first, stop), slice(None), slice(None))]
        if self.offsets is None:
            return predict(self.net, raw, progress=False, **self.settings)
        affinities = predict_views(self.net, raw, self.offsets, progress=False, **self.settings)
        return affinities[:, start - first :]
