"""The usual changes of grey values, made of MONAI transforms.

`malis.training.augmentation` imports this where it is asked for, because MONAI takes seconds to
import.
"""

from malis._checks import extra_package

transforms = extra_package("monai.transforms", "train")


class GreyValueChanges(transforms.Compose):
    """Random contrast, brightness, gamma and noise, which tells how much of each.

    Parameters
    ----------
    contrast, brightness, gamma, noise : float
        See `malis.training.augmentation.grey_value_changes`.
    """

    def __init__(self, contrast: float, brightness: float, gamma: float, noise: float) -> None:
        super().__init__(
            [
                transforms.RandScaleIntensityFixedMean(prob=1.0, factors=contrast),
                transforms.RandShiftIntensity(prob=1.0, offsets=brightness),
                transforms.RandAdjustContrast(prob=0.5, gamma=(1 / gamma, gamma)),
                transforms.RandGaussianNoise(prob=0.5, std=noise, sample_std=True),
            ]
        )
        self.contrast, self.brightness = float(contrast), float(brightness)
        self.gamma, self.noise = float(gamma), float(noise)
