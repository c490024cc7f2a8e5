"""The update rule by hand; learning rates that are tensors, and conjugated gradients."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter

from lion import Lion
from tests.lion.building import with_gradient
from tests.lion.reference import BACK_ENDS

# Weight, gradient and momentum before the step, settings, and weight and momentum after it.
HAND: dict[str, tuple[tuple[float, float, float], dict[str, Any], tuple[float, float]]] = {
    # Decay: 2 * (1 - 0.5 * 0.25) = 1.75. Update: 0.75 * 4 + 0.25 * (-4) = 2, so minus 0.5. Momentum: 0.5 * 4 - 0.5 * 4.
    "all together": ((2, -4, 4), {"lr": 0.5, "betas": (0.75, 0.5), "weight_decay": 0.25}, (1.25, 0)),
    # After the update it would be (1 - 0.5) * (1 - 0.5) = 0.25.
    "decay before the update": ((1, 1, 0), {"lr": 0.5, "betas": (0.9, 0.5), "weight_decay": 1.0}, (0, 0.5)),
    # Gradient and decay of opposite signs: with the decay inside, sign(0.1 * 1 - 100) would win.
    "decay not in the sign": ((-100, 1, 0), {"lr": 0.5, "betas": (0.9, 0.5), "weight_decay": 1.0}, (-50.5, 0.5)),
    # Old momentum 1: 0.5 * 1 + 0.5 * (-0.9) > 0. The new one, 0.125 * 1 + 0.875 * (-0.9), would flip the sign.
    "sign of the old momentum": ((0, -0.9, 1), {"lr": 1.0, "betas": (0.5, 0.125)}, (-1, 0.125 - 0.875 * 0.9)),
    # Update: 0.875 * 1 + 0.125 * (-4) = 0.375. With the betas swapped it would be 0.125 * 1 + 0.875 * (-4) < 0.
    "betas not swapped": ((0, -4, 1), {"lr": 1.0, "betas": (0.875, 0.125)}, (-1, 0.125 - 0.875 * 4)),
    "an entry of zeros only decays": ((1, 0, 0), {"lr": 0.5, "weight_decay": 0.5}, (0.75, 0)),
    "lr 0 updates the momentum": ((3, 1, 0), {"lr": 0.0, "betas": (0.9, 0.5), "weight_decay": 10.0}, (3, 0.5)),
}


@BACK_ENDS
@pytest.mark.parametrize(("before", "settings", "after"), HAND.values(), ids=HAND)
def test_a_step_matches_a_hand_calculation(
    before: tuple[float, float, float], settings: dict[str, Any], after: tuple[float, float], foreach: bool | None
) -> None:
    weight, gradient, momentum = (torch.tensor([value], dtype=torch.float64) for value in before)
    param = with_gradient(weight, gradient)
    optimizer = Lion([param], foreach=foreach, **settings)
    optimizer.state[param]["exp_avg"] = momentum
    optimizer.step()
    assert (param.item(), optimizer.state[param]["exp_avg"].item()) == after


@BACK_ENDS
def test_a_cautious_step_matches_a_hand_calculation(foreach: bool | None) -> None:
    # Update signs with momentum (4, 4, -4, 0) and beta1 0.5: +, +, -, 0. Gradients agree only in the first and third:
    # 2 kept of 4, scaled by 4 / (2 + 1).
    gradient = torch.tensor([1.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    param = with_gradient(torch.zeros_like(gradient), gradient)
    optimizer = Lion([param], lr=0.75, betas=(0.5, 0.5), cautious=True, foreach=foreach)
    optimizer.state[param]["exp_avg"] = torch.tensor([4.0, 4.0, -4.0, 0.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.tensor([-1.0, 0.0, 1.0, 0.0], dtype=torch.float64))
    assert optimizer.state[param]["exp_avg"].tolist() == [2.5, 1.5, -2.5, 0.0]


@BACK_ENDS
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_matches_a_float_lr_bit_for_bit(shape: tuple[int, ...], foreach: bool | None) -> None:
    params = [Parameter(torch.linspace(-1, 1, 101)) for _ in range(2)]
    lr = torch.full(shape, 0.01, dtype=torch.float64)
    optimizers = [
        Lion([params[0]], lr=0.01, weight_decay=0.1),
        Lion([params[1]], lr=lr, weight_decay=0.1, foreach=foreach, capturable=bool(foreach)),
    ]
    torch.manual_seed(0)
    for step in range(5):
        gradient = torch.randn(101)
        optimizers[0].param_groups[0]["lr"] = 0.01 / (step + 1)
        lr.fill_(0.01 / (step + 1))
        for param, optimizer in zip(params, optimizers, strict=True):
            param.grad = gradient
            optimizer.step()
    torch.testing.assert_close(params[0].detach(), params[1].detach(), rtol=0, atol=0)


@BACK_ENDS
def test_a_lazily_conjugated_gradient_is_resolved(foreach: bool | None) -> None:
    param = Parameter(torch.zeros(1, dtype=torch.complex64))
    (param.conj() * torch.tensor([1 + 1j])).sum().real.backward()
    assert param.grad is not None
    assert param.grad.is_conj()  # otherwise there is nothing to test
    gradient = param.grad.resolve_conj().clone()
    Lion([param], lr=0.5, foreach=foreach).step()
    assert param.item() == complex(-0.5 * gradient.real.sign(), -0.5 * gradient.imag.sign())
