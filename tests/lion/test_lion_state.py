"""Lion's state, through saving, loading and copying, and with other optimizers' state dicts."""

import copy
from typing import Any

import lion_pytorch
import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lion import Lion
from tests.lion.building import through_file


def make_trained() -> tuple[nn.Linear, Lion]:
    """A small model after three steps."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = Lion(model.parameters(), lr=1e-2, weight_decay=0.1)
    train(model, optimizer, steps=3)
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def assert_same_training(one: tuple[nn.Module, torch.optim.Optimizer], other: tuple[nn.Module, Any]) -> None:
    for model, optimizer in (one, other):
        train(model, optimizer, steps=5)
    for param, other_param in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(param, other_param)


def test_the_state_dict_saves_settings_as_given() -> None:
    _, optimizer = make_trained()
    saved = optimizer.state_dict()["param_groups"][0]
    del saved["params"]
    assert saved == {
        "lr": 1e-2,
        "betas": (0.9, 0.99),
        "weight_decay": 0.1,
        "momentum_dtype": None,
        "kahan_sum": False,
        "cautious": False,
        "maximize": False,
        "foreach": None,  # not this machine's choice: a checkpoint must load on another machine
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }


def test_loading_copies_the_momentum() -> None:
    model, optimizer = make_trained()
    state_dict = optimizer.state_dict()
    before = copy.deepcopy(state_dict)
    new_model = copy.deepcopy(model)
    new_optimizer = Lion(new_model.parameters())
    new_optimizer.load_state_dict(state_dict)
    train(new_model, new_optimizer, steps=2)
    for key, state in before["state"].items():
        assert torch.equal(state_dict["state"][key]["exp_avg"], state["exp_avg"])


@pytest.mark.parametrize(
    ("param_dtype", "momentum_dtype", "expected"),
    [
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.complex64, None, torch.complex64),
        (torch.bfloat16, None, torch.float32),
        (torch.float16, None, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float64, torch.float64),
    ],
)
@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
def test_momentum_dtype_survives_loading_bit_for_bit(
    param_dtype: torch.dtype, momentum_dtype: torch.dtype | None, expected: torch.dtype
) -> None:
    param = Parameter(torch.ones(100, dtype=param_dtype))
    optimizer = Lion([param], momentum_dtype=momentum_dtype)
    for _ in range(3):
        param.grad = torch.randn_like(param)
        optimizer.step()
    saved = optimizer.state[param]["exp_avg"]
    assert saved.dtype == expected

    new_optimizer = Lion([param])
    new_optimizer.load_state_dict(through_file(optimizer.state_dict()))
    loaded = new_optimizer.state[param]["exp_avg"]
    assert loaded.dtype == expected
    assert torch.equal(loaded, saved)


def test_loaded_momentum_takes_the_dtype_of_a_float64_model() -> None:
    model, optimizer = make_trained()
    double = copy.deepcopy(model).double()
    new_optimizer = Lion(double.parameters())
    new_optimizer.load_state_dict(optimizer.state_dict())
    assert {state["exp_avg"].dtype for state in new_optimizer.state.values()} == {torch.float64}
    new_optimizer.step()


@pytest.mark.parametrize(
    "make_other",
    [
        torch.optim.AdamW,
        torch.optim.Adam,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adafactor,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.ASGD,
        torch.optim.SGD,
        lambda params: torch.optim.SGD(params, momentum=0.9),
    ],
)
@pytest.mark.parametrize("steps", [0, 1])
def test_state_dict_of_another_optimizer_is_refused(make_other: Any, steps: int) -> None:
    model, optimizer = make_trained()
    other_model = copy.deepcopy(model)
    other = make_other(other_model.parameters())
    train(other_model, other, steps)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="This is not the state dict of a Lion"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    train(model, optimizer, steps=1)


@pytest.mark.parametrize("name", ["exp_avg_sq", "momentum_buffer"])
def test_the_refusal_names_foreign_state(name: str) -> None:
    _, optimizer = make_trained()
    state_dict = optimizer.state_dict()
    state_dict["state"][1] = {"exp_avg": torch.zeros(3), name: torch.zeros(3)}
    refusal = rf"This is not the state dict of a Lion: the state of parameter 1 has \['{name}'\]"
    with pytest.raises(ValueError, match=refusal):
        optimizer.load_state_dict(state_dict)


def test_state_without_a_momentum_is_refused_unless_our_settings_stand_beside_it() -> None:
    model, optimizer = make_trained()
    state_dict = optimizer.state_dict()
    state_dict["state"][1] = {"other code's": torch.zeros(3)}
    Lion(model.parameters()).load_state_dict(state_dict)
    (group,) = state_dict["param_groups"]
    for name in ("momentum_dtype", "kahan_sum", "cautious"):
        del group[name]
    with pytest.raises(ValueError, match="the state of parameter 1 has no 'exp_avg'"):
        optimizer.load_state_dict(state_dict)


def test_momentum_of_another_shape_is_refused() -> None:
    model, optimizer = make_trained()
    state_dict = optimizer.state_dict()
    state_dict["state"][0]["exp_avg"] = torch.zeros(1)  # would broadcast
    with pytest.raises(ValueError, match=r"shape \(1,\) for parameter 0, which has shape \(3, 4\)"):
        Lion(model.parameters()).load_state_dict(state_dict)


def test_a_state_dict_with_another_number_of_parameters_is_refused() -> None:
    model, optimizer = make_trained()
    with pytest.raises(ValueError, match="doesn't match the size"):
        Lion([model.weight]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    "other_lion", [lion_pytorch.Lion, lambda params, **settings: timm.optim.Lion(params, **settings)]
)
def test_a_public_lions_checkpoint_continues_identically(other_lion: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    other = other_lion(model.parameters(), lr=0.01, weight_decay=0.1)
    train(model, other, steps=3)
    new_model = copy.deepcopy(model)
    optimizer = Lion(new_model.parameters())
    optimizer.load_state_dict(other.state_dict())
    assert_same_training((model, other), (new_model, optimizer))


LATER = ["momentum_dtype", "kahan_sum", "cautious", "maximize", "foreach", "capturable", "differentiable", "fused"]


@pytest.mark.parametrize("missing", LATER)
def test_a_state_dict_without_a_newer_setting_loads(missing: str) -> None:
    model, optimizer = make_trained()
    state_dict = copy.deepcopy(optimizer.state_dict())
    del state_dict["param_groups"][0][missing]
    optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[0][missing] == Lion(model.parameters()).defaults[missing]
    train(model, optimizer, steps=1)


def test_a_pickle_without_newer_settings_steps_and_accepts_groups() -> None:
    _, optimizer = make_trained()
    old_state = copy.deepcopy(optimizer.__getstate__())
    for name in LATER:
        del old_state["defaults"][name]
        del old_state["param_groups"][0][name]
    optimizer = Lion.__new__(Lion)
    optimizer.__setstate__(old_state)
    param = Parameter(torch.zeros(1))
    optimizer.add_param_group({"params": [param]})
    param.grad = torch.ones(1)
    optimizer.step()
    assert param.item() == pytest.approx(-1e-2)


def test_loading_hooks_see_the_raw_dict_and_the_final_momentum() -> None:
    """As documented by torch.optim, a pre-hook can rewrite the state dict, and a post-hook sees the final momentum."""
    model, optimizer = make_trained()
    seen: list[Tensor] = []

    def double_momentum(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        state = {key: {"exp_avg": 2 * value["exp_avg"]} for key, value in state_dict["state"].items()}
        return state_dict | {"state": state}

    new_optimizer = Lion(model.parameters())
    new_optimizer.register_load_state_dict_pre_hook(double_momentum)
    new_optimizer.register_load_state_dict_post_hook(lambda opt: seen.append(opt.state[model.weight]["exp_avg"]))
    new_optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(seen[0], 2 * optimizer.state[model.weight]["exp_avg"])
    assert new_optimizer.state[model.weight]["exp_avg"] is seen[0]
    assert len(new_optimizer._optimizer_load_state_dict_pre_hooks) == 1  # Lion's own hooks are removed
    assert len(new_optimizer._optimizer_load_state_dict_post_hooks) == 1


def test_named_parameters_keep_their_names() -> None:
    model = nn.Linear(2, 2)
    optimizer = Lion(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    unnamed = Lion(model.parameters())
    unnamed.load_state_dict(optimizer.state_dict())
    unnamed.step()
