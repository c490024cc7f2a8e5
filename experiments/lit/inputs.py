"""What the image tower gets: pictures by number, as pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from experiments.lit.splits import Pictures


def whole_picture(size: int) -> v2.Compose:
    """The shorter side resized to ``size``, and the middle: uint8 [3, size, size]."""
    return v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])


@dataclass(frozen=True)
class Pixels:
    """Inputs uint8 ``[N, 3, size, size]``."""

    pictures: Pictures
    size: int

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Those pictures."""
        resize = whole_picture(self.size)
        return torch.stack([resize(self.pictures[int(number)]) for number in numbers])
