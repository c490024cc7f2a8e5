"""What a super-resolution model sees of the image that it is to enlarge (Ho et al. 2021, Cascaded Diffusion Models)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.diffusion.forward_process import ForwardProcess


def low_resolution(images: Tensor, size: int) -> Tensor:
    """Images float ``[N, 3, S, S]`` averaged to ``size`` pixels, which divides S, and enlarged again (bilinear)."""
    small = F.avg_pool2d(images, images.shape[-1] // size)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


def clean(images: Tensor, size: int) -> dict[str, Tensor]:
    """Arguments of ``predict`` for evaluation: the small image without noise, and its noise level 0."""
    levels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return {"low_resolution": low_resolution(images, size), "class_labels": levels}


def augmented(images: Tensor, size: int, forward: ForwardProcess, num_levels: int) -> dict[str, Tensor]:
    """The same for training: noise of a random level on the small image, and the level, from the global generator, so
    that the model learns not to trust every detail of what a smaller model will have generated.
    """
    levels = torch.randint(num_levels, (len(images),), device=images.device)
    small = low_resolution(images, size)
    return {"low_resolution": forward.noisy(small, torch.randn_like(small), levels), "class_labels": levels}
