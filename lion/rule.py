"""Lion's rule once more, written plainly in float64: what the tests and `lion.doctor` hold every implementation to."""

from torch import Tensor

CLOSE_TO_ZERO = 1e-5
"""Below this share of its terms an interpolation may come out with either sign in float32."""


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
    """One step of Algorithm 2 of arXiv:2302.06675, out of place, for real tensors of one shape and any dtype.

    Returns:
        The new weight and the new momentum in float64, and a bool for each entry: whether its sign is beyond doubt.
    """
    weight, gradient, momentum = weight.double(), gradient.double(), momentum.double()
    if maximize:
        gradient = -gradient
    kept, added = betas[0] * momentum, (1 - betas[0]) * gradient
    weight = weight - lr * ((kept + added).sign() + weight_decay * weight)
    size = kept.abs() + added.abs()
    beyond_doubt = ((kept + added).abs() > CLOSE_TO_ZERO * size) | (size == 0)
    return weight, betas[1] * momentum + (1 - betas[1]) * gradient, beyond_doubt
