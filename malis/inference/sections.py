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


class PredictedSections:
    """What a 2D network predicts of a volume, to be read with ``[:, z]``.

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

    Attributes
    ----------
    shape : (4,) tuple of int
        (C, z, y, x).
    dtype : numpy dtype
        float32.
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
        self._bar = tqdm(total=self.shape[1], desc="predict", unit="section", disable=not progress)
        self._read: set[int] = set()

    def __getitem__(self, index: tuple[slice, int]) -> np.ndarray:
        """Predict a section, (C, y, x) float32."""
        channels, z = index
        # A view gives edges back to the volume only if it has the sections at both of their ends.
        across = self.offsets is not None and len(self.offsets[0]) == 3
        first = max(z - 1, 0) if across else z
        stacked = (slice(None),) * (self.net.in_channels > 1)
        raw = self.volume[(*stacked, slice(first, z + 1), slice(None), slice(None))]
        if self.offsets is None:
            affinities = predict(self.net, raw, progress=False, **self.settings)
        else:
            affinities = predict_views(self.net, raw, self.offsets, progress=False, **self.settings)
        if z not in self._read:
            self._read.add(z)
            self._bar.update()
            if len(self._read) == self.shape[1]:
                self._bar.close()
        return affinities[channels, -1]
