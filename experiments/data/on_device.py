"""Training images that stay on the run's device, where they are cropped and flipped, instead of arriving by batch."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.harness.config import RunConfig

if TYPE_CHECKING:  # the CPU's instruction set is pinned after a config is read, and before these are imported
    import numpy as np
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass
class ImageRunConfig(RunConfig):
    """``run`` for tasks that train on images."""

    images_on_device: bool = False
    """keep the training images on the run's device and take batches from them there: the same pixels to the bit,
    without a copy to the device at every step. Images in files, and those that are resized or augmented by more than
    crops with padding and flips, are read by batch all the same"""


class ImagesOnDevice:
    """Images uint8 ``[images, C, H, W]`` on a device."""

    def __init__(self, images: "Tensor", device: "torch.device") -> None:
        self._channels_last = images.movedim(1, 3).contiguous().to(device)

    def __getitem__(self, indices: "Tensor") -> "Tensor":
        """The images at ``indices``, int64 ``[N]`` on the device, in memory with the channels last."""
        return self._channels_last[indices].movedim(3, 1)


def kept_on_device(
    run: ImageRunConfig, pixels: "Callable[[np.ndarray], Tensor] | None", count: int
) -> ImagesOnDevice | None:
    """All ``count`` images on the run's device, if it is to keep them there. ``pixels`` makes those at some indices,
    uint8 ``[N, C, H, W]``; it is None for images that have to be read by batch.
    """
    import numpy as np

    from experiments.harness.accelerator import device_of

    if not run.images_on_device:
        return None
    if pixels is None:
        log.warning("run.images_on_device: these images are in files, resized or augmented, so they are read by batch.")
        return None
    return ImagesOnDevice(pixels(np.arange(count)), device_of(run))
