"""measure_step against hand calculations and numpy, and on the hidden NaN that it is meant to find."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import Parameter

from lion import Lion, measure_step
from tests.lion.building import with_gradient

nan, inf = float("nan"), float("inf")


def test_measures_match_a_hand_calculation() -> None:
    # Weights (3, 4, 0) move by -1, -1 and 0; the fourth has no gradient and still belongs to the weight norm.
    moved, still = (
        with_gradient(torch.tensor([4.0, 5.0, 0.0]), torch.tensor([2.0, 7.0, 0.0])),
        Parameter(torch.tensor([12.0])),
    )
    measures = measure_step(Lion([moved, still], lr=1.0))
    assert moved.tolist() == [3.0, 4.0, 0.0]
    assert measures == {
        "nonfinite_state": 0.0,
        "zero_update_share": pytest.approx(1 / 3),
        "update_norm": pytest.approx(2**0.5),
        "weight_norm": 13.0,
    }


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (Lion, {"lr": 0.01}),
        (Lion, {"lr": 0.01, "foreach": True}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.SGD, {"lr": 0.01}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (torch.optim.Adafactor, {"lr": 0.01}),
    ],
)
def test_measures_of_any_optimizer_match_numpy(make: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2).double().float())
    optimizer = make(model.parameters(), **settings)
    model(torch.randn(3, 5)).square().sum().backward()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().double().numpy()
    measures = measure_step(optimizer)
    after = nn.utils.parameters_to_vector(model.parameters()).detach().double().numpy()
    assert measures["update_norm"] == pytest.approx(np.linalg.norm(after - before), rel=1e-5)
    assert measures["weight_norm"] == pytest.approx(np.linalg.norm(after), rel=1e-5)
    assert measures["zero_update_share"] == np.mean(after == before)
    assert measures["nonfinite_state"] == 0


@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
def test_measures_cover_mixed_dtypes() -> None:
    params = [with_gradient(torch.full((2,), 2.0, dtype=dtype)) for dtype in (torch.bfloat16, torch.float64)]
    params.append(with_gradient(torch.tensor([2 + 2j]), 1 + 1j))
    measures = measure_step(Lion(params, lr=1.0))
    assert measures["weight_norm"] == pytest.approx(6**0.5)
    assert measures["update_norm"] == pytest.approx(6**0.5)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("fault", [nan, inf])
def test_one_non_finite_gradient_shows_in_the_state_but_not_in_the_weights(fault: float, foreach: bool) -> None:
    param = with_gradient(torch.ones(4), torch.tensor([1.0, fault, 1.0, 1.0]))
    optimizer = Lion([param], lr=0.125, foreach=foreach)
    measure_step(optimizer)
    param.grad = torch.ones(4)
    for _ in range(3):
        measures = measure_step(optimizer)
    assert measures["nonfinite_state"] == 1
    assert measures["zero_update_share"] == (0.25 if np.isnan(fault) else 0.0)
    assert torch.isfinite(param).all()


def test_updates_lost_to_rounding_count_as_zero_updates() -> None:
    """At lr 1e-4 half a unit in the last place of a bfloat16 weight of 1 is 20 times the update."""
    with pytest.warns(UserWarning, match="bfloat16"):
        optimizer = Lion([with_gradient(torch.ones(8, dtype=torch.bfloat16))], lr=1e-4)
    assert measure_step(optimizer)["zero_update_share"] == 1.0


def test_non_finite_entries_of_all_state_tensors_are_counted() -> None:
    optimizer = torch.optim.AdamW([with_gradient(torch.ones(3), torch.tensor([nan, 1.0, inf]))])
    assert measure_step(optimizer)["nonfinite_state"] == 4  # two entries each of exp_avg and exp_avg_sq


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_state_in_8_bit_floats_is_counted(dtype: torch.dtype) -> None:
    """PyTorch neither promotes these types nor computes their norm."""
    optimizer = torch.optim.SGD([param := with_gradient(torch.ones(3))])
    optimizer.state[param]["moment"] = torch.tensor([1.0, nan, 448.0]).to(dtype)
    assert measure_step(optimizer)["nonfinite_state"] == 1
    optimizer.state[param]["moment"] = torch.tensor([1.0, 0.0, 448.0]).to(dtype)
    assert measure_step(optimizer)["nonfinite_state"] == 0


def test_measuring_does_not_change_the_step() -> None:
    results = []
    for step in (lambda optimizer: optimizer.step(), measure_step):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = Lion(model.parameters(), weight_decay=0.1)
        for _ in range(3):
            model(torch.randn(2, 4)).square().sum().backward()
            step(optimizer)
        results.append(model.weight.detach().clone())
    assert torch.equal(*results)


@pytest.mark.parametrize("param", [Parameter(torch.ones(2)), with_gradient(torch.ones(0))])
def test_measuring_without_gradients_is_refused(param: Parameter) -> None:
    with pytest.raises(ValueError, match="no gradient in any parameter"):
        measure_step(Lion([param]))
