"""differentiable=True: autograd's derivatives of one step against finite differences, and of two by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lion import Lion


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def step(param: Tensor, grad: Tensor, exp_avg: Tensor, lr: Tensor | float, **settings: Any) -> tuple[Tensor, Tensor]:
    """Weight and momentum after one step, as a differentiable function."""
    param, exp_avg = param.clone(), exp_avg.clone()
    param.grad = grad
    optimizer = Lion([param], lr=lr, differentiable=True, **settings)
    optimizer.state[param]["exp_avg"] = exp_avg
    optimizer.step()
    return param, optimizer.state[param]["exp_avg"]


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.5}, {"maximize": True}, {"cautious": True}])
def test_derivatives_match_finite_differences(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def function(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return step(*inputs, **settings)

    assert torch.autograd.gradcheck(function, (random(6), random(6), random(6), lr))


def test_learning_rate_can_be_learned_through_two_steps() -> None:
    """From w = 3 down: two steps of lr lead to 3 - 2 lr, so that the loss w**2 has derivative -4 w in lr."""
    lr = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    param = torch.tensor([3.0], dtype=torch.float64, requires_grad=True).clone()
    optimizer = Lion([param], lr=lr, differentiable=True)
    for _ in range(2):
        # Sum first: the step is in place and would invalidate what squaring the parameter saves for backward.
        param.grad = torch.autograd.grad(param.sum().square(), param, create_graph=True)[0]
        optimizer.step()
    (derivative,) = torch.autograd.grad(param.sum().square(), lr)
    assert param.item() == 2.5
    assert derivative.item() == -10.0
