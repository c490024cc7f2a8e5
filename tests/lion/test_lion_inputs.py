"""What Lion accepts and rejects: settings, gradients, groups, devices, closures, hooks."""

import sys
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn import Parameter

from lion import Lion, lion
from tests.lion.building import with_gradient
from tests.lion.reference import BACK_ENDS

FUNCTIONAL: dict[str, Any] = {"lr": 0.5, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}


def one_param(*shape: int) -> Parameter:
    return with_gradient(torch.ones(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.5}, "Invalid learning rate: -0.5"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"lr": float("inf")}, "Invalid learning rate: inf"),
        ({"lr": torch.tensor(-0.5)}, "Invalid learning rate: -0.5"),
        ({"lr": torch.tensor([0.1, 0.2])}, "Tensor lr must be 1-element"),
        ({"lr": torch.tensor(0.1), "foreach": True}, "lr as a Tensor is not supported for capturable=False"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ({"betas": (0.9, 0.99, 0.999)}, r"betas must be two floats, got \(0.9, 0.99, 0.999\)"),
        ({"betas": (torch.tensor(0.9), 0.99)}, r"betas must be two floats, got \(tensor\(0.9"),
        ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ({"weight_decay": float("nan")}, "Invalid weight_decay value: nan"),
        ({"weight_decay": torch.tensor(0.1)}, r"Invalid weight_decay value: tensor\(0.1"),
        ({"momentum_dtype": torch.int8}, "momentum_dtype must be None or one of .*, got torch.int8"),
        ({"momentum_dtype": "int8"}, "momentum_dtype must be None or one of .*, got 'int8'"),
        ({"foreach": True, "differentiable": True}, "differentiable=True is not supported with foreach=True"),
        ({"fused": True, "foreach": True}, "foreach=True is not supported with fused=True"),
        ({"fused": True, "differentiable": True}, "differentiable=True is not supported with fused=True"),
        ({"fused": True, "cautious": True}, "cautious=True is not supported with fused=True"),
    ],
)
def test_an_invalid_setting_is_refused_and_quoted(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lion([one_param(2)], **settings)
    optimizer = Lion([one_param(2)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [one_param(2)], **settings})
    assert len(optimizer.param_groups) == 1


@BACK_ENDS
def test_a_sparse_gradient_is_refused_before_anything_is_updated(foreach: bool | None) -> None:
    dense, sparse = one_param(2), one_param(3, 3)
    sparse.grad = torch.eye(3).to_sparse()
    with pytest.raises(RuntimeError, match=r"not support sparse gradients, got layout torch.sparse_coo .* \(3, 3\)"):
        Lion([dense, sparse], foreach=foreach).step()
    assert torch.equal(dense, torch.ones(2))


@BACK_ENDS
@pytest.mark.parametrize("momentum", [torch.zeros(1), torch.zeros(2, device="meta")])
def test_a_momentum_of_another_shape_or_device_is_refused(momentum: torch.Tensor, foreach: bool | None) -> None:
    param = one_param(2)
    optimizer = Lion([param], foreach=foreach)
    optimizer.state[param]["exp_avg"] = momentum
    with pytest.raises(RuntimeError, match=r"A parameter of shape \(2,\) on cpu has a momentum of shape"):
        optimizer.step()


def test_momentum_dtype_for_a_complex_parameter_is_refused() -> None:
    param = with_gradient(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"momentum_dtype=bfloat16 does not work for complex parameters"):
        Lion([param], momentum_dtype=torch.bfloat16).step()


@BACK_ENDS
@pytest.mark.parametrize("settings", [{}, {"maximize": True}, {"cautious": True}, {"weight_decay": 1.0}])
def test_gradients_are_never_written_to(settings: dict[str, Any], foreach: bool | None) -> None:
    starts = [torch.ones(1003, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.complex64)]
    gradients = [torch.randn_like(start) for start in starts]
    params = [with_gradient(start, gradient.clone()) for start, gradient in zip(starts, gradients, strict=True)]
    optimizer = Lion(params, foreach=foreach, **settings)
    for _ in range(2):
        optimizer.step()
    for param, gradient in zip(params, gradients, strict=True):
        assert param.grad is not None
        assert torch.equal(param.grad, gradient)


@BACK_ENDS
def test_a_step_without_gradients_does_nothing(foreach: bool | None) -> None:
    param = Parameter(torch.ones(2))
    optimizer = Lion([param], weight_decay=1.0, foreach=foreach)
    assert optimizer.step() is None
    assert torch.equal(param, torch.ones(2))
    assert not optimizer.state


@BACK_ENDS
def test_momentum_keeps_the_memory_format(foreach: bool | None) -> None:
    contiguous = torch.randn(2, 3, 4, 5)
    param = with_gradient(contiguous.to(memory_format=torch.channels_last), contiguous)
    optimizer = Lion([param], foreach=foreach)
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


@BACK_ENDS
@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
def test_a_group_can_mix_devices_and_dtypes(foreach: bool | None) -> None:
    """The meta device stands for a second device."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.float32)
    torch.manual_seed(0)
    starts = [torch.randn(9, dtype=dtype) for dtype in dtypes] + [torch.randn(9, device="meta")]
    gradients = [torch.randn_like(start) for start in starts]

    mixed = [with_gradient(start.clone(), gradient) for start, gradient in zip(starts, gradients, strict=True)]
    with patch.object(torch, "_foreach_sign_", wraps=torch._foreach_sign_) as foreach_sign:
        Lion(mixed, lr=0.1, weight_decay=0.1, foreach=foreach).step()
    for call in foreach_sign.call_args_list:
        assert len({(tensor.device, tensor.dtype) for tensor in call.args[0]}) == 1

    for start, gradient, param in zip(starts[:-1], gradients[:-1], mixed[:-1], strict=True):
        alone = with_gradient(start, gradient)
        Lion([alone], lr=0.1, weight_decay=0.1, foreach=False).step()
        assert torch.equal(param, alone)


@BACK_ENDS
def test_a_gradient_can_have_another_dtype_than_the_parameter(foreach: bool | None) -> None:
    param, grad = torch.zeros(3), torch.tensor([1.0, -1.0, 0.0], dtype=torch.bfloat16)
    lion([param], [grad], [torch.zeros(3)], **FUNCTIONAL, foreach=foreach)
    assert param.tolist() == [-0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"fused": True, "cautious": True},
        {"foreach": True, "lr": torch.tensor(0.1)},
        {"foreach": True, "differentiable": True},
    ],
)
def test_the_functional_form_refuses_what_the_class_refuses(settings: dict[str, Any]) -> None:
    params, grads, exp_avgs = ([torch.ones(1)] for _ in range(3))
    with pytest.raises(ValueError, match="not supported"):
        lion(params, grads, exp_avgs, **(FUNCTIONAL | settings))


def test_groups_can_override_settings() -> None:
    first, second = one_param(1), one_param(1)
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "lr": 0.25, "maximize": True}]
    optimizer = Lion(groups, lr=0.5)
    third = one_param(1)
    optimizer.add_param_group({"params": [third], "weight_decay": 1.0, "betas": [0.5, 0.5]})
    optimizer.step()
    assert [param.item() for param in (first, second, third)] == [0.5, 1.25, 0.0]
    assert optimizer.state[third]["exp_avg"].item() == 0.5
    assert optimizer.param_groups[2]["betas"] == (0.5, 0.5)


def test_the_closure_runs_once_before_the_update() -> None:
    param = Parameter(torch.ones(1))
    optimizer = Lion([param], lr=0.5)
    calls = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        calls.append(param.item())
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert calls == [1.0]
    assert param.item() == 0.5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "multi"),
        ({"foreach": False}, "single"),
        ({"foreach": True}, "multi"),
        ({"fused": False}, "single"),
        ({"differentiable": True}, "single"),
        ({"lr": torch.tensor(0.1)}, "single"),
        ({"lr": torch.tensor(0.1), "capturable": True}, "multi"),
    ],
)
def test_the_back_end_is_chosen_like_torchs_adamw(settings: dict[str, Any], expected: str) -> None:
    """Compared with AdamW on the same parameters; the CPU is declared a foreach device, as a GPU would be."""
    param = one_param(2).clone() if settings.get("differentiable") else one_param(2)
    param.grad = torch.ones(2)
    lion_module, adam_module = sys.modules["lion.lion"], sys.modules["torch.optim.adam"]
    with (
        patch("torch.optim.optimizer._get_foreach_kernels_supported_devices", return_value=["cpu"]),
        patch.object(lion_module, "takes_fused", return_value=False),
        patch.object(lion_module, "_single_tensor_lion") as single,
        patch.object(lion_module, "_multi_tensor_lion") as multi,
        patch.object(adam_module, "_single_tensor_adam") as adam_single,
        patch.object(adam_module, "_multi_tensor_adam") as adam_multi,
    ):
        Lion([param], **settings).step()
        torch.optim.AdamW([param], **settings).step()
    assert (single.called, multi.called) == (expected == "single", expected == "multi")
    assert (adam_single.called, adam_multi.called) == (single.called, multi.called)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "_fused_lion"),
        ({"fused": True}, "_fused_lion"),
        ({"lr": torch.tensor(0.1)}, "_fused_lion"),
        ({"fused": False}, "_single_tensor_lion"),
        ({"foreach": False}, "_single_tensor_lion"),
        ({"foreach": True}, "_multi_tensor_lion"),
        ({"cautious": True}, "_single_tensor_lion"),
        ({"differentiable": True}, "_single_tensor_lion"),
    ],
)
def test_the_back_end_on_a_cpu_follows_the_settings(settings: dict[str, Any], expected: str) -> None:
    param = one_param(2).clone() if settings.get("differentiable") else one_param(2)
    param.grad = torch.ones(2)
    optimizer = Lion([param], **settings)
    with patch.object(sys.modules["lion.lion"], expected) as step:
        optimizer.step()
    assert step.called
    assert optimizer.param_groups[0]["fused"] == settings.get("fused")
