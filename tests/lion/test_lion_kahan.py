"""bfloat16 training ends where float32 training ends with Kahan summation, but not without."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from experiments.harness.source_code import ROOT
from lion import Lion, lion
from tests.lion.building import with_gradient

ALL_BACK_ENDS: list[dict[str, Any]] = [{}, {"foreach": False}, {"foreach": True}, {"fused": True}]
CONTEXT, STEPS, BATCH_SIZE, LR = 6, 400, 64, 5e-4


def text() -> Tensor:
    """This repository's licence, letter by letter."""
    return torch.tensor(list((ROOT / "LICENSE").read_bytes()))


def trained_loss(dtype: torch.dtype, **settings: Any) -> float:
    """Nats per letter, over the whole text, of a perceptron trained to predict each letter from the previous six."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(128, 16), nn.Flatten(), nn.Linear(16 * CONTEXT, 128), nn.ReLU(), nn.Linear(128, 128)
    ).to(dtype)
    optimizer = Lion(model.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=0.1, **settings)
    windows = text().unfold(0, CONTEXT + 1, 1)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - step / STEPS)
        batch = windows[torch.randint(len(windows), (BATCH_SIZE,), generator=generator)]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).float(), batch[:, -1]).backward()
        optimizer.step()
    with torch.no_grad():
        return F.cross_entropy(model(windows[:, :-1]).float(), windows[:, -1]).item()


@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
@pytest.mark.parametrize("back_end", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_bfloat16_learns_a_text_as_well_as_float32(back_end: dict[str, bool]) -> None:
    exact = trained_loss(torch.float32, **back_end)
    rounded = trained_loss(torch.bfloat16, **back_end)
    compensated = trained_loss(torch.bfloat16, kahan_sum=True, **back_end)
    assert abs(compensated - exact) < 0.01
    assert rounded - exact > 0.05


def test_weight_plus_compensation_matches_the_float32_weight() -> None:
    start = torch.randn(500).bfloat16()
    low, exact = Parameter(start.clone()), Parameter(start.float())
    optimizer = Lion([low], lr=1e-3, weight_decay=0.1, kahan_sum=True)
    reference = Lion([exact], lr=1e-3, weight_decay=0.1)
    for _ in range(50):
        gradient = torch.randn(500).bfloat16()
        low.grad, exact.grad = gradient, gradient.float()
        optimizer.step()
        reference.step()
    both = low.float() + optimizer.state[low]["compensation"].float()
    # 8 bits of the weight and 8 of the compensation: each step rounds at 2**-17 of the weight.
    torch.testing.assert_close(both, exact, rtol=50 * 2**-17, atol=1e-6)


def test_the_compensation_is_saved_and_loaded() -> None:
    param = with_gradient(torch.randn(100).bfloat16())
    optimizer = Lion([param], lr=1e-4, kahan_sum=True)
    optimizer.step()
    loaded = Lion([param], lr=1e-4, kahan_sum=True)
    loaded.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(loaded.state[param], optimizer.state[param], rtol=0, atol=0)
    assert loaded.state[param]["compensation"].abs().max() > 0
    loaded.state[param]["compensation"].zero_()
    assert optimizer.state[param]["compensation"].abs().max() > 0, "the copy that was loaded is another tensor"


def after_small_steps(settings: dict[str, Any], steps: int = 10) -> tuple[nn.Linear, Lion]:
    """bfloat16 ones after a decrease of 10 / 2**12, of which the rounded weights show either nothing or 2**-8."""
    model = nn.Linear(3, 2).bfloat16()
    nn.init.ones_(model.weight)
    optimizer = Lion([model.weight], lr=2**-12, kahan_sum=True, **settings)
    small_steps(model, optimizer, steps)
    return model, optimizer


def small_steps(model: nn.Linear, optimizer: Lion, steps: int) -> None:
    for _ in range(steps):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()


@pytest.mark.parametrize("settings", ALL_BACK_ENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_converting_a_model_to_float32_applies_its_compensation_once(
    settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model, optimizer = after_small_steps(settings)
    small_steps(model.to(dtype), optimizer, 3)
    assert model.weight.unique().tolist() == [1 - 13 * 2**-12]
    assert set(optimizer.state[model.weight]) == {"exp_avg"}


@pytest.mark.parametrize("settings", ALL_BACK_ENDS)
def test_a_compensated_checkpoint_loads_into_a_float32_model(settings: dict[str, Any]) -> None:
    model, optimizer = after_small_steps(settings)
    exact = nn.Linear(3, 2)
    exact.load_state_dict(model.state_dict())
    loaded = Lion([exact.weight], kahan_sum=True, **settings)
    loaded.load_state_dict(optimizer.state_dict())
    small_steps(exact, loaded, 3)
    assert exact.weight.unique().tolist() == [1 - 13 * 2**-12]


@pytest.mark.parametrize("settings", ALL_BACK_ENDS)
@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_converting_a_model_to_low_precision_starts_compensation(settings: dict[str, Any], dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2)
    nn.init.ones_(model.weight)
    optimizer = Lion([model.weight], lr=2**-12, kahan_sum=True, **settings)
    small_steps(model, optimizer, 1)  # which rounding to the new dtype undoes
    small_steps(model.to(dtype), optimizer, 10)
    both = model.weight.float() + optimizer.state[model.weight]["compensation"].float()
    assert both.unique().tolist() == [1 - 10 * 2**-12]


@pytest.mark.parametrize("settings", ALL_BACK_ENDS)
def test_converting_between_low_precisions_keeps_the_compensation(settings: dict[str, Any]) -> None:
    model, optimizer = after_small_steps(settings)
    small_steps(model.half(), optimizer, 10)
    both = model.weight.float() + optimizer.state[model.weight]["compensation"].float()
    assert both.unique().tolist() == [1 - 20 * 2**-12]


@pytest.mark.parametrize("foreach", [False, True])
def test_the_functional_step_applies_the_compensation_of_a_float32_parameter(foreach: bool) -> None:
    param, grad, exp_avg, compensation = torch.ones(3), torch.ones(3), torch.zeros(3), torch.full((3,), 0.25)
    settings: dict[str, Any] = {"lr": 0.5, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}
    lion([param], [grad], [exp_avg], [compensation], **settings, foreach=foreach)
    assert param.tolist() == [0.75] * 3
    assert compensation.tolist() == [0.0] * 3
