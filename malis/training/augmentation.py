"""Augmentation: one training patch seen in many ways.

Geometry moves raw data and labels together: flips, transpositions, and an elastic deformation by a
cubic B-spline over a coarse grid of random displacements. The B-spline is a weighted mean, so no
voxel moves farther than the largest control displacement. A patch drawn with that much margin
therefore never needs voxels from outside, and nothing is mirrored into the labels. Labels are
looked up at the nearest voxel as integers, so an id of any size stays exact.

Grey values are left to MONAI: `grey_value_changes` is a usual choice, and any other random MONAI
transform can take its place. MONAI's elastic deformations are not used, because they bound no
displacement and are ten times slower (2D, 180x180: 9 ms against 0.8 ms; 3D, 30x120x120: 410 ms
against 25 ms, on one core).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# A cubic B-spline deformation cannot fold while every control displacement stays below this
# fraction of the control spacing: 0.48 in 2D, 0.40 in 3D (Choi & Lee, Graphical Models 62, 2000).
FOLD_FREE = 0.40


def grey_value_changes(
    contrast: float = 0.25,
    brightness: float = 0.2,
    gamma: float = 1.4,
    noise: float = 0.08,
    *,
    by_section: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Random contrast, brightness, gamma and noise, made of MONAI transforms.

    Parameters
    ----------
    contrast : float
        Grey values are stretched around their mean by a factor in 1 -+ contrast.
    brightness : float
        Grey values, in [-1, 1], are shifted by up to this much.
    gamma : float
        Half of the patches are raised to a power between 1 / gamma and gamma.
    noise : float
        Half of the patches get Gaussian noise with a standard deviation of up to this much.
    by_section : bool
        Draw anew for every section of a block or slab: serial sections differ in their staining.

    Returns
    -------
    malis.training.intensity.GreyValueChanges
        A MONAI transform that takes and gives (1, *spatial) float32 tensors.
    """
    from malis.training import intensity  # MONAI takes seconds, and not all need it

    return intensity.GreyValueChanges(contrast, brightness, gamma, noise, by_section)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a patch; what does happen is drawn per patch from a generator.

    Parameters
    ----------
    flip : bool
        Reverse every axis with probability 1/2, also that of neighbouring sections.
    transpose : bool
        Permute axes, but only among axes on which the patch has one size and one resolution.
    elastic_spacing : float
        Distance of the control points in voxels of the finest axis.
    elastic_amplitude : float
        Largest displacement in voxels. Only axes with the finest resolution move: between
        sections that lie farther apart than their pixels there is nothing to interpolate. Such
        sections of one patch are all deformed alike. 0 turns the deformation off.
    damaged_sections : float
        Probability that a section of a block or slab is missing (black) or faint, for serial
        sections.
    grey_values : callable or None
        A MONAI transform of a (1, *spatial) tensor; if it has ``set_random_state`` it is seeded
        for every patch.

    Raises
    ------
    ValueError
        If a number is out of range, or the amplitude is so large that tissue could fold over.
    """

    flip: bool = True
    transpose: bool = True
    elastic_spacing: float = 32.0
    elastic_amplitude: float = 8.0
    damaged_sections: float = 0.0
    grey_values: Callable[[Tensor], Tensor] | None = field(default_factory=grey_value_changes)

    def __post_init__(self) -> None:
        if not 0 <= self.damaged_sections <= 1:
            raise ValueError(f"damaged_sections must be in [0, 1], got {self.damaged_sections}")
        largest = FOLD_FREE * self.elastic_spacing
        if not 0 <= self.elastic_amplitude < largest:
            raise ValueError(
                f"elastic_amplitude must be in [0, {largest:g}) for a spacing of "
                f"{self.elastic_spacing:g} voxels, or tissue folds; got {self.elastic_amplitude:g}"
            )

    def margin(self, resolution: Sequence[float]) -> tuple[int, ...]:
        """Tell how many voxels more than the patch are needed on each side, per axis.

        `resolution` is the voxel size of the patch's axes in nm.
        """
        return tuple(math.ceil(amplitude) for amplitude in self._amplitudes(resolution))

    def __call__(
        self, raw: Tensor, labels: Tensor, resolution: Sequence[float], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augment one patch.

        Parameters
        ----------
        raw : (1, *spatial + 2 margin) float32 tensor
            Grey values in [-1, 1]. Several channels are neighbouring sections
            (`malis.inference.neighbours`), which may be reversed, too.
        labels : (*label_spatial + 2 margin) int64 tensor
            Labels of the centre of the patch (or of all of it).
        resolution : (ndim,) sequence of float
            Voxel size of the patch's axes in nm.
        rng : numpy.random.Generator
            Where everything is drawn from: the same state gives the same patch.

        Returns
        -------
        raw, labels : tensors
            The same without the margin.
        """
        margin = self.margin(resolution)
        if any(margin):
            size = [n - 2 * m for n, m in zip(raw.shape[1:], margin, strict=True)]
            spacing = [
                self.elastic_spacing if a else math.inf for a in self._amplitudes(resolution)
            ]
            strength = rng.uniform()
            amplitude = [strength * a for a in self._amplitudes(resolution)]
            raw, labels = deform(raw, labels, random_displacement(size, spacing, amplitude, rng))
        raw, labels = self._flip_and_transpose(raw, labels, resolution, rng)
        if self.damaged_sections and labels.ndim == 3:
            raw = damage_sections(raw, self.damaged_sections, rng)
        if self.grey_values is not None:
            if hasattr(self.grey_values, "set_random_state"):
                self.grey_values.set_random_state(seed=int(rng.integers(2**31)))
            raw = self.grey_values(raw).as_subclass(Tensor)
        return raw.contiguous(), labels.contiguous()

    def _amplitudes(self, resolution: Sequence[float]) -> tuple[float, ...]:
        finest = min(resolution)
        return tuple(self.elastic_amplitude if math.isclose(r, finest) else 0.0 for r in resolution)

    def _flip_and_transpose(
        self, raw: Tensor, labels: Tensor, resolution: Sequence[float], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        order = np.arange(labels.ndim)
        if self.transpose:
            for group in interchangeable_axes(labels.shape, raw.shape[1:], resolution):
                order[group] = rng.permutation(group)
        flipped = [axis for axis in range(labels.ndim) if self.flip and rng.uniform() < 0.5]
        raw = raw.permute(0, *(order + 1).tolist()).flip([axis + 1 for axis in flipped])
        if self.flip and len(raw) > 1 and rng.uniform() < 0.5:
            raw = raw.flip(0)
        return raw, labels.permute(*order.tolist()).flip(flipped)


def interchangeable_axes(*properties: Sequence[float]) -> list[list[int]]:
    """Group the axes that agree in every property, for example in patch size and resolution."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for axis, values in enumerate(zip(*properties, strict=True)):
        groups.setdefault(tuple(float(value) for value in values), []).append(axis)
    return list(groups.values())


def random_displacement(
    shape: Sequence[int],
    spacing: Sequence[float],
    amplitude: Sequence[float],
    rng: np.random.Generator,
) -> Tensor:
    """Draw a smooth displacement field: a cubic B-spline with uniform random coefficients.

    The control points lie `spacing` voxels apart along each axis; with ``inf``, the displacement is
    the same everywhere along that axis. Their displacements are uniform in -+ amplitude voxels, so
    nothing in the (ndim, *shape) float32 result is larger.

    References
    ----------
    Rueckert et al., IEEE Transactions on Medical Imaging 18(8), 1999, section II.
    """
    bases = [_spline_basis(size, float(step)) for size, step in zip(shape, spacing, strict=True)]
    coefficients = rng.uniform(-1, 1, (len(shape), *(basis.shape[1] for basis in bases)))
    coefficients *= np.reshape(amplitude, (-1, *(1 for _ in shape)))
    displacement = torch.from_numpy(coefficients.astype(np.float32))
    for axis, basis in enumerate(bases, start=1):
        displacement = torch.tensordot(basis, displacement, dims=([1], [axis])).movedim(0, axis)
    return displacement


def deform(raw: Tensor, labels: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a patch at displaced places, raw data linearly and labels at the nearest voxel.

    Every voxel looks `displacement`, (ndim, *spatial) float32, away from itself, in voxels. Raw
    data have so large a margin around the patch on every side, labels around its centre.
    """
    spatial = displacement.shape[1:]
    grid, index = [], 0
    for axis, (size, large, small) in enumerate(
        zip(spatial, raw.shape[1:], labels.shape, strict=True)
    ):
        along = [-1 if other == axis else 1 for other in range(len(spatial))]
        margin = (large - size) // 2
        place = torch.arange(margin, margin + size, dtype=torch.float32).view(along)
        place = place + displacement[axis]
        grid.append(place * (2 / max(large - 1, 1)) - 1)  # grid_sample counts from -1 to 1
        nearest = (_centre(place, labels.shape, raw.shape[1:]) - (large - small) // 2).round()
        index = index * small + nearest.long()
    points = torch.stack(grid[::-1], dim=-1)[None]  # grid_sample wants (x, y, z)
    raw = torch.nn.functional.grid_sample(raw[None], points, mode="bilinear", align_corners=True)
    return raw[0], labels.reshape(-1)[index]


def damage_sections(raw: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Blank or fade sections of (1, z, y, x) grey values, as lost and badly stained ones look.

    Each with a probability; half of the damaged ones are black. `raw` stays as it is.
    """
    raw = raw.clone()
    for section in raw[0]:
        if rng.uniform() < probability:
            black = rng.uniform() < 0.5
            section.copy_(torch.tensor(-1.0) if black else section.mean().lerp(section, 0.2))
    return raw


@functools.lru_cache(maxsize=64)
def _spline_basis(size: int, spacing: float) -> Tensor:
    """Return the (size, control points) weights of a uniform cubic B-spline; rows sum to 1."""
    position = torch.arange(size, dtype=torch.float64) / spacing
    first = position.floor()
    t = position - first
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    columns = first.long()[:, None] + torch.arange(4)
    basis = torch.zeros(size, int(first[-1]) + 4, dtype=torch.float64)
    return basis.scatter_(1, columns, torch.stack(weights, dim=1) / 6).float()


def _centre(place: Tensor, small: Sequence[int], large: Sequence[int]) -> Tensor:
    """Cut as much off every side of a patch as labels of shape `small` lack of `large`."""
    for axis, (inner, outer) in enumerate(zip(small, large, strict=True)):
        cut = (outer - inner) // 2
        place = place.narrow(axis, cut, place.shape[axis] - 2 * cut)
    return place
