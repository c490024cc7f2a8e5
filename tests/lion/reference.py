"""Lion reimplemented: Algorithm 2 of arXiv:2302.06675 in numpy float64, and google/automl's roundings."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

BACK_ENDS = pytest.mark.parametrize("foreach", [False, True, None])
"""The loop, foreach, and what a CPU takes by itself: the fused kernel."""


def algorithm2(
    weight: Array, gradients: Iterable[Array], *, lr: float, betas: tuple[float, float], weight_decay: float
) -> tuple[Array, Array, list[Array]]:
    """Weights and momentum after one step for each gradient, and the sign that each step took."""
    momentum = np.zeros_like(weight)
    signs = []
    for gradient in gradients:
        interpolated = betas[0] * momentum + (1 - betas[0]) * gradient
        signs.append(np.sign(interpolated))
        weight = weight - lr * (signs[-1] + weight_decay * weight)
        momentum = betas[1] * momentum + (1 - betas[1]) * gradient
    return weight, momentum, signs


def automl_step(
    weight: Tensor, gradient: Tensor, momentum: Tensor, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> None:
    """One step in place with the roundings of google/automl/lion/lion_pytorch.py."""
    weight *= 1 - lr * weight_decay
    direction = torch.sign(momentum * betas[0] + gradient * (1 - betas[0]))
    torch.add(weight, direction, alpha=-lr, out=weight)
    torch.mul(momentum, betas[1], out=momentum)
    torch.add(momentum, gradient, alpha=1 - betas[1], out=momentum)
