"""What the towers get: pictures and texts by number, as they are or after the locked part of a tower."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from experiments.harness.prepared_data import cached_arrays
from experiments.lit.splits import Pictures

LOCKED_BATCH_SIZE = 64
"""Inputs in one forward pass of a locked part; only its speed depends on it, up to rounding."""

Inputs = Callable[[np.ndarray], Tensor]
"""Numbers, int64 [N], to what a tower takes: [N, ...]"""


def whole_picture(size: int) -> v2.Compose:
    """The shorter side resized to ``size``, and the middle: uint8 [3, size, size]."""
    return v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])


def pixels(pictures: Pictures, size: int) -> Inputs:
    """Inputs uint8 ``[N, 3, size, size]``."""
    resize = whole_picture(size)
    return lambda numbers: torch.stack([resize(pictures[int(number)]) for number in numbers])


def rows_of(array: np.ndarray) -> Inputs:
    """Inputs that are rows of an array."""
    return lambda numbers: torch.from_numpy(array[numbers])


@dataclass(frozen=True)
class LockedPart:
    """A locked part of a tower, and where its outputs are kept."""

    identity: str
    """tells what its outputs depend on, besides the inputs"""
    build: Callable[[], nn.Module]
    device: torch.device
    cache_dir: Path

    def outputs(self, inputs: Inputs, count: int, fingerprint: str) -> Inputs:
        """Its outputs for inputs 0 to ``count - 1``, float32, computed unless they are in the cache.

        ``fingerprint`` tells the inputs.
        """
        identity = f"{self.identity} of {count} of {fingerprint}"
        arrays = cached_arrays("lit-features", identity, self.cache_dir, lambda: {"outputs": self._all(inputs, count)})
        return rows_of(arrays.load()["outputs"])

    def _all(self, inputs: Inputs, count: int) -> np.ndarray:
        module = self.build().to(self.device)
        outputs = []
        with torch.no_grad():
            for start in range(0, count, LOCKED_BATCH_SIZE):
                batch = inputs(np.arange(start, min(start + LOCKED_BATCH_SIZE, count)))
                outputs.append(module(batch.to(self.device)).float().cpu().numpy())
        return np.concatenate(outputs)
