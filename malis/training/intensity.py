"""The usual changes of grey values, made of MONAI transforms, which take seconds to import."""

from typing import Any

import torch
from torch import Tensor

from malis._checks import extra_package

transforms = extra_package("monai.transforms", "train")


class GreyValueChanges(transforms.Compose):
    """What `malis.training.augmentation.grey_value_changes` makes; it tells how much of each."""

    def __init__(
        self, contrast: float, brightness: float, gamma: float, noise: float, by_section: bool
    ) -> None:
        super().__init__(
            [
                transforms.RandScaleIntensityFixedMean(prob=1.0, factors=contrast),
                transforms.RandShiftIntensity(prob=1.0, offsets=brightness),
                transforms.RandAdjustContrast(prob=0.5, gamma=(1 / gamma, gamma)),
                transforms.RandGaussianNoise(prob=0.5, std=noise, sample_std=True),
            ]
        )
        self.contrast, self.brightness = float(contrast), float(brightness)
        self.gamma, self.noise, self.by_section = float(gamma), float(noise), by_section

    def __call__(self, raw: Tensor, *others: Any, **settings: Any) -> Tensor:
        """Change a (1, *spatial) float32 tensor; what else MONAI passes on goes to MONAI."""
        if not self.by_section or raw.ndim < 4:
            return super().__call__(raw, *others, **settings)
        change = super().__call__
        sections = [change(section, *others, **settings) for section in raw.unbind(1)]
        return torch.stack(sections, dim=1)
