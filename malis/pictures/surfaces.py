"""Objects in 3D, as surfaces."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LightSource
from mpl_toolkits.mplot3d import Axes3D
from scipy import ndimage
from skimage import measure

from malis.pictures import PALETTE

SMOOTHING = 0.8  # voxels; rounds the steps between voxels


def show_surfaces(
    ax: Axes3D,
    labels: np.ndarray,
    ids: Sequence[int],
    voxel_size: Sequence[float] = (1, 1, 1),
    colours: Sequence[str] = PALETTE[:6],
) -> None:
    """Show some objects of a volume as surfaces, lit from one side.

    Parameters
    ----------
    ax : Axes3D
        Of ``projection="3d"``; z is up.
    labels : (z, y, x) integer array
    ids : sequence of int
        The objects to show; one that is not there is left out.
    voxel_size : (3,) sequence of float
        Along z, y and x, in any unit.
    colours : sequence of str
        One an object, from the start again where there are more objects.
    """
    light = LightSource(azdeg=225, altdeg=45)
    for number, object_id in enumerate(ids):
        inside = np.pad(labels == object_id, 2).astype(np.float32)
        inside = ndimage.gaussian_filter(inside, SMOOTHING)
        if inside.max() <= 0.5:  # not there, or too thin for a surface
            continue
        corners, faces, *_ = measure.marching_cubes(inside, 0.5, spacing=tuple(voxel_size))
        z, y, x = (corners - 1.5 * np.asarray(voxel_size)).T  # edges of voxels, not centres
        style = {"linewidth": 0, "antialiased": False, "clip_on": False}
        colour = colours[number % len(colours)]
        drawn = ax.plot_trisurf(x, y, faces, z, color=colour, lightsource=light, **style)
        drawn.set_edgecolor("face")
    depth, height, width = np.multiply(labels.shape, voxel_size)
    ax.set(xlim=(0, width), ylim=(0, height), zlim=(0, depth))
    ax.set_box_aspect((width, height, depth), zoom=1.2)
    ax.set_axis_off()
