"""Training images that stay on the run's device, where they are cropped and flipped, instead of arriving by batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.harness.config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ImageRunConfig(RunConfig):
    """``run`` for tasks that train on images."""

    images_on_device: bool = False
    """keep all training images, decoded, on the run's device, and take batches from them there: the same pixels to the
    bit, without a copy to the device at every step"""


class ImagesOnDevice:
    """All images of a split, uint8, on the device where they are first asked for. ``pixels`` makes the images of some
    indices, uint8 ``[N, C, H, W]``, on the host.
    """

    def __init__(self, pixels: Callable[[np.ndarray], "Tensor"], count: int) -> None:
        self._pixels, self._count = pixels, count
        self._stored: Tensor | None = None

    def __getitem__(self, indices: "Tensor") -> "Tensor":
        """The images at ``indices``, int64 ``[N]``, on their device, in memory with the channels last."""
        if self._stored is None or self._stored.device != indices.device:
            self._stored = self._pixels(np.arange(self._count)).movedim(1, 3).contiguous().to(indices.device)
        return self._stored[indices].movedim(3, 1)


def flipped(images: "Tensor", where: "Tensor") -> "Tensor":
    """Images ``[N, C, H, W]``, mirrored ``where`` (bool ``[N]``) says so."""
    import torch  # here, because a config is read without it

    return torch.where(where[:, None, None, None], images.flip(3), images)
