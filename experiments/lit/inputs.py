"""The image tower's inputs: image pixels, by index."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from experiments.lit.splits import Images


def whole_image(size: int) -> v2.Compose:
    """Resize the shorter side to ``size`` and center-crop: uint8 [3, size, size]."""
    return v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])


@dataclass(frozen=True)
class Pixels:
    """Maps indices to the resized images as inputs, uint8 ``[N, 3, size, size]``."""

    images: Images
    size: int

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """The images with these indices."""
        resize = whole_image(self.size)
        return torch.stack([resize(self.images[int(number)]) for number in numbers])
