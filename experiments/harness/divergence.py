"""Detect divergence from loss and gradients: ``sign(nan)`` is 0, so Lion's weights alone would hide a NaN."""

import math

import torch
from accelerate import Accelerator
from torch import Tensor


class Diverged(Exception):  # a result, not an error
    """Loss, gradient, optimizer state or a metric became NaN or infinite."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


class FiniteWatch:
    """Remembers, on the device, the first step whose loss or gradient is not finite."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._first_bad = torch.full((), math.inf, device=accelerator.device)

    def observe(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Check one step without waiting for the device."""
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
        self._first_bad = torch.where(finite, self._first_bad, self._first_bad.clamp(max=step))

    def check(self) -> None:
        """Wait for the device and raise Diverged if any process has seen a bad step."""
        first_bad = self._accelerator.gather(self._first_bad).min().item()
        if math.isfinite(first_bad):
            raise Diverged(int(first_bad), "the loss or its gradient")
