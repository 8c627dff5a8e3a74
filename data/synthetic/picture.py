"""Draw the picture in data/README.md: python -m data.synthetic.picture data/synthetic.png."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.io import imsave

from data.synthetic.drawing import boundary_distance
from data.synthetic.sample import NO_CLEFT, SyntheticSample, make_sample

SHOWN = 4  # the pair of partners in the middle of the picture
SIZE = 280
BORDER, CLEFT, SITE = (230, 60, 50), (70, 190, 255), (255, 220, 0)


def panels(
    sample: SyntheticSample, corner: tuple[int, int, int], size: int = SIZE
) -> NDArray[np.uint8]:
    """Show a section, its labels as borders and as colours, and the next section.

    Parameters
    ----------
    sample : SyntheticSample
        What to show.
    corner : (int, int, int)
        Section, top row and left column; section + 1 has to exist.
    size : int
        Height and width of the part that is shown.

    Returns
    -------
    (size, 4 * size + 24, 3) uint8 array
        The picture.
    """
    z, top, left = corner
    part = np.s_[top : top + size, left : left + size]
    ids, clefts = sample.neuron_ids[z][part], sample.clefts[z][part]
    gray, after = (np.stack([sample.raw[i][part]] * 3, axis=-1) for i in (z, z + 1))
    palette = np.random.default_rng(0).integers(70, 240, (int(sample.neuron_ids.max()) + 1, 3))
    coloured = palette[ids].astype(np.uint8)
    edge = boundary_distance(ids, 1.0) < 1
    coloured[edge] //= 3
    borders = gray.copy()
    borders[edge] = BORDER
    borders[clefts != NO_CLEFT] = CLEFT
    for place in sample.annotations.locations():
        section, y, x = (round(p / r) for p, r in zip(place, sample.resolution, strict=True))
        y, x = y - top, x - left
        if section == z and 0 < y < size - 1 and 0 < x < size - 1:
            borders[y - 1 : y + 2, x - 1 : x + 2] = SITE
    gap = np.full((len(gray), 8, 3), 255, np.uint8)
    return np.hstack([gray, gap, borders, gap, coloured, gap, after])


if __name__ == "__main__":
    made = make_sample()
    presynaptic, _ = made.annotations.pre_post_partners[SHOWN]
    place = made.annotations.get_annotation(presynaptic)[1]
    z, y, x = (round(p / r) for p, r in zip(place, made.resolution, strict=True))
    top, left = (min(max(0, i - SIZE // 2), n - SIZE) for i, n in ((y, 512), (x, 512)))
    imsave(Path(sys.argv[1]), panels(made, (z, top, left)))
