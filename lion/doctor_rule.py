"""An independent, plain float64 implementation of Lion's rule: the reference for the tests and `lion.doctor`."""

from collections.abc import Callable

import torch
from torch import Tensor

CLOSE_TO_ZERO = 1e-5
"""If an interpolation is smaller than this share of its terms, float32 rounding may flip its sign."""


def step(
    weight: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    maximize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Algorithm 2 of arXiv:2302.06675, out of place, for real tensors of the same shape and any dtype.

    Returns:
        The new weight and the new momentum in float64, and a bool for each entry: whether its sign is certain.
    """
    weight, gradient, momentum = weight.double(), gradient.double(), momentum.double()
    if maximize:
        gradient = -gradient
    kept, added = betas[0] * momentum, (1 - betas[0]) * gradient
    weight = weight - lr * ((kept + added).sign() + weight_decay * weight)
    size = kept.abs() + added.abs()
    beyond_doubt = ((kept + added).abs() > CLOSE_TO_ZERO * size) | (size == 0)
    return weight, betas[1] * momentum + (1 - betas[1]) * gradient, beyond_doubt


# Known mistakes: a sentence that describes each, and the step with that mistake. The arguments are weight, gradient,
# momentum, lr, the two betas and weight decay, in float64; the results are the new weight and momentum.

Wrong = Callable[[Tensor, Tensor, Tensor, float, float, float, float], tuple[Tensor, Tensor]]


def _mix(momentum: Tensor, gradient: Tensor, beta: float) -> Tensor:
    return beta * momentum + (1 - beta) * gradient


MISTAKES: dict[str, Wrong] = {
    "It decays the weight after the update, so the update is decayed too.": lambda w, g, m, lr, b1, b2, wd: (
        (w - lr * _mix(m, g, b1).sign()) * (1 - lr * wd),
        _mix(m, g, b2),
    ),
    "It puts the weight decay inside the sign, which discards its size.": lambda w, g, m, lr, b1, b2, wd: (
        w - lr * (_mix(m, g, b1) + wd * w).sign(),
        _mix(m, g, b2),
    ),
    "It adds the weight decay to the gradient, so the sign discards its size.": lambda w, g, m, lr, b1, b2, wd: (
        w - lr * _mix(m, g + wd * w, b1).sign(),
        _mix(m, g + wd * w, b2),
    ),
    "It does not multiply the weight decay by the learning rate.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - wd) - lr * _mix(m, g, b1).sign(),
        _mix(m, g, b2),
    ),
    "It ignores the weight decay.": lambda w, g, m, lr, b1, b2, wd: (w - lr * _mix(m, g, b1).sign(), _mix(m, g, b2)),
    "It updates the momentum before it computes the update from it.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(_mix(m, g, b2), g, b1).sign(),
        _mix(m, g, b2),
    ),
    "It swaps the two betas.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(m, g, b2).sign(),
        _mix(m, g, b1),
    ),
    "It uses the first beta for both averages.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(m, g, b1).sign(),
        _mix(m, g, b1),
    ),
    "It uses the second beta for both averages.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(m, g, b2).sign(),
        _mix(m, g, b2),
    ),
    "It updates the momentum first and then uses only its sign.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(m, g, b2).sign(),
        _mix(m, g, b2),
    ),
    "It moves a weight whose gradient and momentum are 0.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * torch.where(_mix(m, g, b1) < 0, -1.0, 1.0),
        _mix(m, g, b2),
    ),
    "It maximizes the loss instead of minimizing it.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) + lr * _mix(m, g, b1).sign(),
        _mix(m, g, b2),
    ),
    "It does not take the sign of the update.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(m, g, b1),
        _mix(m, g, b2),
    ),
    "It adds the gradient to the momentum without the factor 1 - beta2.": lambda w, g, m, lr, b1, b2, wd: (
        w * (1 - lr * wd) - lr * _mix(m, g, b1).sign(),
        b2 * m + g,
    ),
    "It has no momentum.": lambda w, g, m, lr, b1, b2, wd: (w * (1 - lr * wd) - lr * g.sign(), torch.zeros_like(m)),
}
