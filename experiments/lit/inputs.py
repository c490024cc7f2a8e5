"""The image tower's inputs: pixels of images by index."""

import torch
from torchvision.transforms import InterpolationMode, v2

from experiments.lit.splits import Pictures
from experiments.pretrained.locked import Inputs


def whole_picture(size: int) -> v2.Compose:
    """Resize the shorter side to ``size`` and center-crop: uint8 [3, size, size]."""
    return v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])


def pixels(pictures: Pictures, size: int) -> Inputs:
    """Inputs uint8 ``[N, 3, size, size]``."""
    resize = whole_picture(size)
    return lambda numbers: torch.stack([resize(pictures[int(number)]) for number in numbers])
