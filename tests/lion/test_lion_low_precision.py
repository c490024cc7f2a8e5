"""bfloat16 and float16: the sign against the float64 reference, the momentum's precision, and what rounding loses."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from lion import Lion
from tests.lion.building import with_gradient
from tests.lion.reference import BACK_ENDS, algorithm2

LOW_PRECISION = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
ENTRIES, STEPS = 20_000, 20
LR = 1 / 16  # 8 units in the last place of a bfloat16 weight near 1, so that every step shows in the weight
WEIGHT_DECAY = 0.1

pytestmark = pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")


def gradients(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ENTRIES, generator=generator).to(dtype) for _ in range(STEPS)]


def rate_of_sign_disagreement(optimizer: Lion, param: Parameter) -> float:
    """Share of all updates (entries times steps) whose sign differs from the float64 reference's."""
    settings = optimizer.param_groups[0]
    given = gradients(param.dtype)
    _, _, expected = algorithm2(
        param.detach().double().numpy(),
        [gradient.double().numpy() for gradient in given],
        lr=settings["lr"],
        betas=settings["betas"],
        weight_decay=settings["weight_decay"],
    )
    disagreeing = 0
    for gradient, sign in zip(given, expected, strict=True):
        decayed = param.detach().double().numpy() * (1 - LR * WEIGHT_DECAY)
        param.grad = gradient
        optimizer.step()
        taken = np.round((decayed - param.detach().double().numpy()) / LR)
        disagreeing += int((taken != sign).sum())
    return disagreeing / (ENTRIES * STEPS)


@BACK_ENDS
@LOW_PRECISION
def test_low_precision_signs_match_the_reference_within_1e_5(dtype: torch.dtype, foreach: bool | None) -> None:
    param = Parameter(torch.randn(ENTRIES).clamp(-2, 2).to(dtype))
    optimizer = Lion([param], lr=LR, weight_decay=WEIGHT_DECAY, foreach=foreach)
    assert rate_of_sign_disagreement(optimizer, param) <= 1e-5


@BACK_ENDS
def test_bfloat16_momentum_of_float32_parameters_flips_few_signs(foreach: bool | None) -> None:
    param = Parameter(torch.randn(ENTRIES))
    optimizer = Lion([param], lr=LR, weight_decay=WEIGHT_DECAY, momentum_dtype=torch.bfloat16, foreach=foreach)
    rate = rate_of_sign_disagreement(optimizer, param)
    assert optimizer.state[param]["exp_avg"].dtype == torch.bfloat16
    assert 0 < rate < 0.001


@BACK_ENDS
@LOW_PRECISION
def test_low_precision_weights_are_rounded_once_per_step(dtype: torch.dtype, foreach: bool | None) -> None:
    start = torch.randn(ENTRIES).to(dtype)
    param = with_gradient(start.clone())
    Lion([param], lr=LR, weight_decay=WEIGHT_DECAY, foreach=foreach).step()
    exact = start.double() * (1 - LR * WEIGHT_DECAY) - LR
    # Float32 arithmetic before the single rounding matters only for ties, and these numbers have none.
    assert torch.equal(param.detach(), exact.to(dtype))


@LOW_PRECISION
def test_float32_momentum_converges_to_a_constant_gradient(dtype: torch.dtype) -> None:
    """1000 steps at beta2 0.99 leave 0.99**1000, 4e-5, of the way; a momentum in bfloat16 stalls below."""
    reached = {}
    for momentum_dtype in (None, torch.bfloat16):
        param = with_gradient(torch.zeros(1, dtype=dtype))
        optimizer = Lion([param], lr=0.0, momentum_dtype=momentum_dtype)
        for _ in range(1000):
            optimizer.step()
        reached[momentum_dtype] = optimizer.state[param]["exp_avg"].item()
    assert reached[None] == pytest.approx(1 - 0.99**1000, rel=1e-4)
    assert 0.75 < reached[torch.bfloat16] < 0.96


def test_bfloat16_weights_above_0_031_do_not_move_at_lr_1e_4() -> None:
    """What the warning says: half a unit in the last place is 2**-14, 6e-5, below 2**-5, and 2**-13, 1.2e-4, above."""
    start = torch.tensor([2**-5 * 0.99, 2**-5 * 1.01], dtype=torch.bfloat16)
    param = with_gradient(start.clone())
    Lion([param], lr=1e-4).step()
    assert (param.detach() != start).tolist() == [True, False]


@LOW_PRECISION
def test_low_precision_parameters_warn_once(dtype: torch.dtype) -> None:
    with pytest.warns(UserWarning, match="Keep the parameters in float32") as caught:
        optimizer = Lion([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1, dtype=dtype)]}])
    assert len(caught) == 1
    assert caught[0].filename == __file__  # the line that built the optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.add_param_group({"params": [torch.zeros(1, dtype=dtype)]})
        optimizer.step()


def test_float32_and_compensated_parameters_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Lion([torch.zeros(1)], momentum_dtype=torch.bfloat16)
        Lion([torch.zeros(1, dtype=torch.bfloat16)], kahan_sum=True)
