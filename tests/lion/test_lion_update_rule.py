"""The update rule: by hand, and against the float64 reference over shapes, layouts and settings."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from lion import Lion, lion
from tests.lion.reference import BACK_ENDS, algorithm2


def one_step(weight: float, gradient: float, momentum: float, **kwargs: Any) -> tuple[float, float]:
    """Weight and momentum after one step of a float64 scalar."""
    param = Parameter(torch.tensor([weight], dtype=torch.float64))
    optimizer = Lion([param], **kwargs)
    optimizer.state[param]["exp_avg"] = torch.tensor([momentum], dtype=torch.float64)
    param.grad = torch.tensor([gradient], dtype=torch.float64)
    optimizer.step()
    return param.item(), optimizer.state[param]["exp_avg"].item()


@BACK_ENDS
def test_a_step_matches_a_hand_calculation(foreach: bool | None) -> None:
    # Decay: 2 * (1 - 0.5 * 0.25) = 1.75. Update: 0.75 * 4 + 0.25 * (-4) = 2, so minus 0.5. Momentum: 0.5 * 4 - 0.5 * 4.
    weight, momentum = one_step(2.0, -4.0, 4.0, lr=0.5, betas=(0.75, 0.5), weight_decay=0.25, foreach=foreach)
    assert weight == 1.25
    assert momentum == 0.0


@BACK_ENDS
def test_decay_is_applied_before_the_update(foreach: bool | None) -> None:
    # After the update it would be (1 - 0.5) * (1 - 0.5) = 0.25.
    assert one_step(1.0, 1.0, 0.0, lr=0.5, weight_decay=1.0, foreach=foreach)[0] == 0.0


@BACK_ENDS
def test_decay_is_not_inside_the_sign(foreach: bool | None) -> None:
    # Gradient and decay of opposite signs: with the decay inside, sign(0.1 * 1 - 100) would win.
    weight, momentum = one_step(-100.0, 1.0, 0.0, lr=0.5, weight_decay=1.0, betas=(0.9, 0.5), foreach=foreach)
    assert weight == -100.0 * 0.5 - 0.5
    assert momentum == 0.5  # nor does decay enter the momentum


@BACK_ENDS
def test_the_sign_uses_the_old_momentum(foreach: bool | None) -> None:
    # Old momentum 1: 0.5 * 1 + 0.5 * (-0.9) > 0. The new one, 0.1 * 1 + 0.9 * (-0.9) = -0.71, would flip the sign.
    assert one_step(0.0, -0.9, 1.0, lr=1.0, betas=(0.5, 0.1), foreach=foreach)[0] == -1.0


@BACK_ENDS
def test_beta1_is_used_for_the_update_and_beta2_for_the_momentum(foreach: bool | None) -> None:
    # Update: 0.875 * 1 + 0.125 * (-4) = 0.375. With the betas swapped it would be 0.125 * 1 + 0.875 * (-4) < 0.
    weight, momentum = one_step(0.0, -4.0, 1.0, lr=1.0, betas=(0.875, 0.125), foreach=foreach)
    assert weight == -1.0
    assert momentum == 0.125 * 1 - 0.875 * 4


@BACK_ENDS
def test_an_entry_with_zero_gradient_and_momentum_only_decays(foreach: bool | None) -> None:
    assert one_step(1.0, 0.0, 0.0, lr=0.5, weight_decay=0.5, foreach=foreach) == (0.75, 0.0)


@BACK_ENDS
def test_lr_0_keeps_the_weights_but_updates_the_momentum(foreach: bool | None) -> None:
    assert one_step(3.0, 1.0, 0.0, lr=0.0, weight_decay=10.0, betas=(0.9, 0.5), foreach=foreach) == (3.0, 0.5)


@BACK_ENDS
def test_a_cautious_step_matches_a_hand_calculation(foreach: bool | None) -> None:
    # Update signs with momentum (4, 4, -4, 0) and beta1 0.5: +, +, -, 0. Gradients agree only in the first and third:
    # 2 kept of 4, scaled by 4 / (2 + 1).
    param = Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = Lion([param], lr=0.75, betas=(0.5, 0.5), cautious=True, foreach=foreach)
    optimizer.state[param]["exp_avg"] = torch.tensor([4.0, 4.0, -4.0, 0.0], dtype=torch.float64)
    param.grad = torch.tensor([1.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.tensor([-1.0, 0.0, 1.0, 0.0], dtype=torch.float64))
    assert optimizer.state[param]["exp_avg"].tolist() == [2.5, 1.5, -2.5, 0.0]


def lay_out(values: np.ndarray, layout: str) -> Tensor:
    """The same values as a tensor with other strides."""
    tensor = torch.from_numpy(values.copy())
    match layout:
        case "transposed":
            return tensor.mT.contiguous().mT
        case "every_other":
            return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
        case "channels_last":
            return tensor.to(memory_format=torch.channels_last)
    return tensor


LAYOUTS = st.sampled_from(["contiguous", "transposed", "every_other", "channels_last"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(0, 4)] * 4),
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    dtype=st.sampled_from([np.float32, np.float64]),
    lr=st.floats(0, 0.1),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    weight_decay=st.floats(0, 10),
    maximize=st.booleans(),
    foreach=st.sampled_from([False, True, None]),
    seed=st.integers(0, 2**32 - 1),
)
def test_three_steps_match_the_float64_reference(
    shape: tuple[int, ...],
    layouts: tuple[str, str],
    dtype: type,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    maximize: bool,
    foreach: bool | None,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Each entry's gradients have one sign, so that no interpolation ends near 0, where float32 rounds to either side.
    sign = rng.choice([-1, 0, 1], size=shape)
    gradients = [sign * rng.integers(1, 100, size=shape) for _ in range(3)]
    start: np.ndarray = rng.standard_normal(shape).astype(dtype)

    param = Parameter(lay_out(start, layouts[0]))
    optimizer = Lion([param], lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize, foreach=foreach)
    for gradient in gradients:
        param.grad = lay_out(gradient.astype(dtype), layouts[1])
        optimizer.step()

    direction = -1.0 if maximize else 1.0
    weight, momentum, _ = algorithm2(
        start.astype(np.float64),
        [np.float64(direction) * gradient for gradient in gradients],
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
    )
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    np.testing.assert_allclose(param.detach().numpy(), weight, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        optimizer.state[param]["exp_avg"].numpy(), momentum, rtol=tolerance, atol=tolerance * 100
    )


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_foreach_matches_the_loop_bit_for_bit(dtype: torch.dtype, maximize: bool, cautious: bool) -> None:
    torch.manual_seed(0)
    starts = [torch.randn(shape, dtype=dtype) for shape in ((5, 3), (), (0,), (129,))]
    gradients = [[torch.randn_like(start) for start in starts] for _ in range(10)]
    results = []
    for foreach in (False, True):
        params = [start.clone() for start in starts]
        exp_avgs = [torch.zeros_like(start) for start in starts]
        for step_gradients in gradients:
            lion(
                params,
                step_gradients,
                exp_avgs,
                lr=0.01,
                beta1=0.9,
                beta2=0.99,
                weight_decay=0.1,
                maximize=maximize,
                cautious=cautious,
                foreach=foreach,
            )
        results.append(params + exp_avgs)
    for loop, multi_tensor in zip(*results, strict=True):
        torch.testing.assert_close(loop, multi_tensor, rtol=0, atol=0)


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


def test_a_complex_parameter_steps_like_its_real_and_imaginary_parts() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(7, dtype=torch.complex64), torch.randn(7, dtype=torch.complex64)
    whole = Parameter(start.clone())
    parts = [Parameter(start.real.clone()), Parameter(start.imag.clone())]
    optimizers = [Lion(params, lr=0.1, weight_decay=0.1) for params in ([whole], parts)]
    for _ in range(3):
        whole.grad = gradient.clone()
        parts[0].grad, parts[1].grad = gradient.real.clone(), gradient.imag.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.view_as_real(whole.detach()), torch.stack([*parts], dim=-1))


@BACK_ENDS
def test_a_lazily_conjugated_gradient_is_resolved(foreach: bool | None) -> None:
    param = Parameter(torch.zeros(1, dtype=torch.complex64))
    (param.conj() * torch.tensor([1 + 1j])).sum().real.backward()
    assert param.grad is not None
    assert param.grad.is_conj()  # otherwise there is nothing to test
    gradient = param.grad.resolve_conj().clone()
    Lion([param], lr=0.5, foreach=foreach).step()
    assert param.item() == complex(-0.5 * gradient.real.sign(), -0.5 * gradient.imag.sign())


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_lion_minimizes_a_quadratic_under_a_schedule(tensor_lr: bool) -> None:
    param = Parameter(torch.tensor([5.0, -3.0]))
    target = torch.tensor([1.0, 2.0])
    optimizer = Lion([param], lr=torch.tensor(0.02) if tensor_lr else 0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=1000)
    for _ in range(1000):
        optimizer.zero_grad()
        (param - target).square().sum().backward()
        optimizer.step()
        schedule.step()
    # Momentum makes the sign lag, so that at a constant lr the weight swings by tens of lr.
    assert (param - target).abs().max() < 0.02
