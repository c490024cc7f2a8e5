"""Float32, weight decay above 0, several steps: the same bits as google/automl's order and as PyPI's Lions."""

from collections.abc import Callable
from typing import Any

import lion_pytorch
import lion_pytorch.foreach
import optimi
import pytest
import timm.optim
import torch
from torch.nn import Parameter

from lion import Lion
from tests.lion.building import take_steps, with_gradient
from tests.lion.reference import BACK_ENDS, automl_step

STEPS = 30
SHAPES = ((33, 17), (64,), (), (3, 4, 5), (1000,))
SETTINGS = [
    {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1},
    {"lr": 3e-2, "betas": (0.95, 0.98), "weight_decay": 1.0},
]
PUBLIC: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lion_pytorch": lion_pytorch.Lion,
    "lion_pytorch_foreach": lion_pytorch.foreach.Lion,
    "timm_loop": lambda params, **settings: timm.optim.Lion(params, foreach=False, **settings),
    "timm_foreach": lambda params, **settings: timm.optim.Lion(params, foreach=True, **settings),
    "optimi": lambda params, **settings: optimi.Lion(params, foreach=False, triton=False, **settings),
}


def make_params() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def make_gradients() -> list[list[torch.Tensor]]:
    """Gradients of very different scales, some of them exactly 0."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for _ in range(STEPS):
        gradients = [torch.randn(shape, generator=generator) for shape in SHAPES]
        scales = [10.0 ** torch.randint(-6, 3, shape, generator=generator) for shape in SHAPES]
        steps.append([g * s * (g > -1) for g, s in zip(gradients, scales, strict=True)])
    return steps


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("settings", SETTINGS)
@BACK_ENDS
def test_weights_and_momentum_match_google_automl_bit_for_bit(settings: dict[str, Any], foreach: bool | None) -> None:
    params, expected = make_params(), [param.detach().clone() for param in make_params()]
    momenta = [torch.zeros_like(weight) for weight in expected]
    optimizer = Lion(params, foreach=foreach, **settings)
    take_steps(optimizer, params, make_gradients())
    for gradients in make_gradients():
        for weight, gradient, momentum in zip(expected, gradients, momenta, strict=True):
            automl_step(weight, gradient, momentum, **settings)
    for param, weight, momentum in zip(params, expected, momenta, strict=True):
        assert_same_bits(param.detach(), weight)
        assert_same_bits(optimizer.state[param]["exp_avg"], momentum)


@BACK_ENDS
def test_interpolation_that_cancels_after_rounding_leaves_the_weight(foreach: bool | None) -> None:
    """A fused multiply-add, as in add_(gradient, alpha=1 - beta1), would see the rounding error and move the weight."""
    generator = torch.Generator().manual_seed(0)
    momentum = torch.randn(10_000, generator=generator)
    gradient = -(momentum * 0.9) / (1 - 0.9)
    cancels = momentum * 0.9 + gradient * (1 - 0.9) == 0
    assert cancels.sum() > 1000
    momentum, gradient = momentum[cancels], gradient[cancels]

    param = with_gradient(torch.ones_like(momentum), gradient)
    optimizer = Lion([param], lr=0.5, betas=(0.9, 0.99), foreach=foreach)
    optimizer.state[param]["exp_avg"] = momentum
    optimizer.step()
    assert torch.equal(param, torch.ones_like(param))


@pytest.mark.parametrize("settings", SETTINGS)
@BACK_ENDS
@pytest.mark.parametrize("public", list(PUBLIC))
def test_weights_match_public_implementations_bit_for_bit(
    public: str, foreach: bool | None, settings: dict[str, Any]
) -> None:
    params, their_params = make_params(), make_params()
    take_steps(Lion(params, foreach=foreach, **settings), params, make_gradients())
    take_steps(PUBLIC[public](their_params, **settings), their_params, make_gradients())
    for param, their_param in zip(params, their_params, strict=True):
        assert_same_bits(param.detach(), their_param.detach())


@pytest.mark.parametrize("maximize", [False, True])
def test_cautious_lion_matches_timm_up_to_its_scale(maximize: bool) -> None:
    """timm divides by the mean of the mask where C-Optim divides by (kept + 1) / size: the same entries are kept."""
    settings: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.0, "maximize": maximize}
    params, their_params = make_params(), make_params()
    take_steps(Lion(params, cautious=True, **settings), params, make_gradients())
    take_steps(timm.optim.Lion(their_params, caution=True, **settings), their_params, make_gradients())
    start = make_params()
    moved = torch.cat([(p - s).flatten() for p, s in zip(params, start, strict=True)])
    they_moved = torch.cat([(p - s).flatten() for p, s in zip(their_params, start, strict=True)])
    assert torch.equal(moved == 0, they_moved == 0)
    # The large tensors keep hundreds of entries, so that + 1 changes the scale by well under 2 %.
    torch.testing.assert_close(moved[-1000:], they_moved[-1000:], rtol=0.02, atol=1e-6)
