"""Borders that are one voxel off: a margin of background between objects that touch.

Where labels touch, nobody has drawn the membrane, and their border runs a voxel or two beside it
here and there. To a loss on single edges that is a little noise. To the constrained MALIS loss it
is a hole: in its negative pass all edges of an object are 1, so one voxel of an object on the far
side of the membrane joins two objects for good, whatever the network says about the membrane. With
a margin of background there is no such shortcut, and a membrane anywhere in the margin will do.
"""

from collections.abc import Sequence

import numpy as np

from malis.checks import check_integer


def grow_boundary(labels: np.ndarray, steps: int | Sequence[int] = 1) -> np.ndarray:
    """Turn the outermost voxels of every object into background.

    Two objects that touch are then 2 x `steps` voxels apart; an object that is thinner than that
    vanishes. The faces of the volume are no borders.

    Parameters
    ----------
    labels : (*spatial) integer array
        Object ids, 0 = background; any integer type.
    steps : int or (ndim,) sequence of int
        Voxels to take away, along every axis alike or along each: ``(0, 2, 2)`` for sections that
        are labelled one by one.

    Returns
    -------
    (*spatial) array of the same type

    Raises
    ------
    TypeError
        If labels or steps are not integers.
    ValueError
        If steps are negative or not as many as the axes.

    References
    ----------
    The node ``GrowBoundary`` of gunpowder (Funke and others), in whose training pipelines for CREMI
    it stands before the affinities are made.

    Examples
    --------
    >>> grow_boundary(np.array([5, 5, 5, 8, 8, 8]))
    array([5, 5, 0, 0, 8, 8])
    """
    check_integer(labels, "labels")
    along = np.asarray(steps)
    check_integer(along, "steps")
    along = np.repeat(along, labels.ndim) if along.ndim == 0 else along
    if len(along) != labels.ndim or along.min() < 0:
        raise ValueError(
            f"steps must be at least 0, one for each of {labels.ndim} axes, got {steps}"
        )
    grown = labels.copy()
    for step in range(along.max()):
        border = np.zeros(labels.shape, bool)
        for axis in (axis for axis, n in enumerate(along) if n > step):
            ids, marks = np.moveaxis(grown, axis, 0), np.moveaxis(border, axis, 0)
            differ = ids[1:] != ids[:-1]
            marks[1:] |= differ
            marks[:-1] |= differ
        grown[border] = 0
    return grown
