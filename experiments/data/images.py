"""Images by index, decoded when they are asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from experiments.data.stored_split import StoredSplit

if TYPE_CHECKING:
    from torch import Tensor


class Images(Protocol):
    """Images of any kind."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, number: int) -> Any:
        """A PIL image, or uint8 ``[C, H, W]``; sizes may differ."""


@dataclass(frozen=True)
class ArrayImages:
    """The rows ``rows`` of decoded images, uint8 ``[images, H, W, C]``, memory-mapped read-only."""

    images: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> "Tensor":
        import torch  # here, because a study opens data without it

        return torch.tensor(self.images[self.rows[number]]).movedim(-1, 0)  # copies, since the arrays are read-only

    def stacked(self, numbers: np.ndarray) -> "Tensor":
        """Several images at once, uint8 ``[N, C, H, W]``, in memory with the channels last."""
        import torch

        return torch.from_numpy(self.images[self.rows[numbers]]).movedim(-1, 1)


@dataclass(frozen=True)
class StoredImages:
    """The rows ``rows`` of a stored split, in Pillow's ``mode`` RGB or L."""

    split: StoredSplit
    rows: np.ndarray
    mode: str = "RGB"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Image.Image:
        image = self.split.image(self.rows[number])
        return image if image.mode == self.mode else image.convert(self.mode)


def arrays_of_size(images: Images, size: int) -> ArrayImages | None:
    """``images`` if they are decoded and have ``size`` x ``size`` pixels: many can then be taken at once."""
    return images if isinstance(images, ArrayImages) and images.images.shape[1:3] == (size, size) else None
