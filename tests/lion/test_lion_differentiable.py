"""differentiable=True: autograd's derivatives of the step against finite differences, and against the formula."""

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


def test_derivatives_match_the_formula() -> None:
    """dw'/dw = 1 - lr * decay; dw'/dlr = -decay * w - sign; dm'/dg = 1 - beta2; the sign itself has derivative 0."""
    param, grad, exp_avg = random(4), random(4), random(4)
    lr = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    new_param, new_exp_avg = step(param, grad, exp_avg, lr, betas=(0.5, 0.75), weight_decay=0.25)
    d_param, d_lr, d_grad = torch.autograd.grad(new_param.sum(), (param, lr, grad), retain_graph=True)
    sign = (0.5 * exp_avg + 0.5 * grad).sign()
    torch.testing.assert_close(d_param, torch.full_like(param, 1 - 0.5 * 0.25))
    torch.testing.assert_close(d_lr, (-0.25 * param - sign).sum())
    assert torch.equal(d_grad, torch.zeros_like(grad))
    (d_grad,) = torch.autograd.grad(new_exp_avg.sum(), grad)
    torch.testing.assert_close(d_grad, torch.full_like(grad, 0.25))


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
