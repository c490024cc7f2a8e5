"""Lion called by more than a training loop: fake tensors, function transforms, grad scalers, checkpoints, wrappers."""

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import timm.optim
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.nn import Parameter

from lion import Lion, lion
from lion.fused import _kernel
from tests.lion.building import threads, with_gradient

ENTRIES = 1003
KERNEL_AND_OPERATORS: list[dict[str, Any]] = [{"fused": True}, {"fused": False}]
SETTINGS: dict[str, Any] = {"lr": 0.25, "beta1": 0.5, "beta2": 0.75, "weight_decay": 0.5}


def param_with_gradient(entries: int = ENTRIES) -> Parameter:
    return with_gradient(torch.zeros(entries))


@pytest.mark.parametrize("fused", [None, True])
def test_fake_tensors_are_stepped_without_compiling_the_kernel(fused: bool | None) -> None:
    _kernel.cache_clear()
    with FakeTensorMode():
        model = nn.Linear(3, 2)
        optimizer = Lion(model.parameters(), fused=fused, momentum_dtype=torch.bfloat16)
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    assert [state["exp_avg"].shape for state in optimizer.state.values()] == [(2, 3), (2,)]
    assert _kernel.cache_info().currsize == 0
    for param in model.parameters():  # still fake tensors, although the mode has ended
        assert param.grad is not None
    optimizer.step()

    real = param_with_gradient()
    Lion([real], lr=0.5, fused=fused).step()
    assert real.unique().tolist() == [-0.5]


def test_an_efficient_zero_tensor_gradient_only_decays() -> None:
    param = with_gradient(torch.ones(3), torch._efficientzerotensor(3))
    Lion([param], lr=0.5, weight_decay=1.0).step()
    assert param.tolist() == [0.5] * 3


def test_a_parameter_with_freed_storage_is_refused() -> None:
    param = param_with_gradient()
    optimizer = Lion([param])
    optimizer.step()
    param.data.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"memory of a tensor of shape \(1003,\) was freed"):
        optimizer.step()


def out_of_place(param: Tensor, grad: Tensor, exp_avg: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    param, exp_avg = param.clone(), exp_avg.clone()
    lion([param], [grad], [exp_avg], **SETTINGS, **settings)
    return param, exp_avg


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}])
def test_vmap_matches_stepping_each_row(settings: dict[str, Any]) -> None:
    rows = [torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with torch.no_grad():
        together = torch.func.vmap(lambda *row: out_of_place(*row, **settings))(*rows)
        alone = [out_of_place(*row, **settings) for row in zip(*rows, strict=True)]
    for ours, theirs in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(ours, torch.stack(theirs))


DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "backward": lambda step, start: torch.autograd.functional.jacobian(step, start).diagonal(),
    "torch.func.grad": lambda step, start: torch.func.grad(lambda param: step(param).sum())(start),
    "torch.func.jvp": lambda step, start: torch.func.jvp(step, (start,), (torch.ones_like(start),))[1],
}


@pytest.mark.parametrize("settings", [{}, {"fused": True}])
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_the_derivative_with_respect_to_the_weight_is_its_decay(derivative: str, settings: dict[str, Any]) -> None:
    start, grad, exp_avg = torch.randn(5), torch.randn(5), torch.zeros(5)
    result = DERIVATIVES[derivative](lambda param: out_of_place(param, grad, exp_avg, **settings)[0], start)
    torch.testing.assert_close(result, torch.full_like(start, 1 - 0.25 * 0.5))


def test_forward_mode_derivatives_work_under_no_grad() -> None:
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        param = torch.autograd.forward_ad.make_dual(torch.ones(3), torch.ones(3))
        stepped, _ = out_of_place(param, torch.ones(3), torch.zeros(3))
        tangent = torch.autograd.forward_ad.unpack_dual(stepped).tangent
        assert tangent is not None
        assert tangent.tolist() == [1 - 0.25 * 0.5] * 3


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize("entries", [3, 200_000])
def test_a_parameter_listed_twice_is_stepped_twice(entries: int, settings: dict[str, Any]) -> None:
    """Sequential: with two threads, the result of each entry would depend on timing."""
    param = param_with_gradient(entries)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = Lion([param, param], lr=0.25, **settings)
    with threads(2):
        optimizer.step()
    assert param.unique().tolist() == [-0.5]


@pytest.mark.parametrize("offset", [0, 1, 100])
def test_parameters_that_share_memory_are_stepped_sequentially(offset: int) -> None:
    results = []
    for settings in KERNEL_AND_OPERATORS:
        memory = torch.zeros(100_000 + offset)
        params = [with_gradient(memory[:100_000]), with_gradient(memory[offset:])]
        with threads(2):
            Lion(params, lr=0.25, weight_decay=0.5, **settings).step()
        results.append(memory)
    assert torch.equal(*results)


def test_a_gradient_that_aliases_its_parameter_is_left_to_the_operators() -> None:
    results = []
    for settings in KERNEL_AND_OPERATORS:
        start = torch.linspace(-1, 1, 101)
        Lion([with_gradient(start, start)], lr=0.25, weight_decay=0.5, **settings).step()
        results.append(start)
    assert torch.equal(*results)


@pytest.mark.parametrize("optimizer", [Lion, torch.optim.AdamW])
def test_optimizer_in_backward_steps_a_parameter_listed_twice_twice(optimizer: type[torch.optim.Optimizer]) -> None:
    param = Parameter(torch.zeros(3))
    _apply_optimizer_in_backward(optimizer, [param, param], {"lr": 0.25, "weight_decay": 0.0})
    param.sum().backward()
    assert param.grad is None
    torch.testing.assert_close(param.detach(), torch.full((3,), -0.5))


def test_optimizers_can_step_concurrently_in_threads() -> None:
    params = [param_with_gradient(50_000) for _ in range(4)]
    optimizers = [Lion([param], lr=2**-6) for param in params]
    threads = [threading.Thread(target=lambda step=o.step: [step() for _ in range(50)]) for o in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {tuple(param.unique().tolist()) for param in params} == {(-50 * 2**-6,)}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float4_e2m1fn_x2, torch.int8])
def test_frozen_parameters_of_any_dtype_are_accepted(dtype: torch.dtype) -> None:
    # Not torch.empty, which fails for 4-bit dtypes with deterministic algorithms.
    frozen = Parameter(torch.zeros(4, dtype=torch.int8).view(dtype), requires_grad=False)
    param = param_with_gradient()
    back_ends: list[dict[str, Any]] = [{}, {"fused": True}, {"foreach": True}]
    for settings in back_ends:
        Lion([frozen, param], lr=0.5, kahan_sum=True, **settings).step()
    assert param.unique().tolist() == [-1.5]


def test_fused_on_an_unsupported_device_fails_at_the_step_as_in_adamw() -> None:
    param = with_gradient(torch.zeros(2, device="meta"))
    with pytest.raises(RuntimeError, match="fused=True"):
        torch.optim.AdamW([param], fused=True).step()
    with pytest.raises(RuntimeError, match=r"fused=True needs parameters on cpu or cuda, got some on {'meta'}"):
        Lion([param], fused=True).step()
    Lion([param]).step()


class Betas(list[float]):
    """A config library's list."""


def test_betas_are_stored_as_tuples() -> None:
    optimizer = Lion([{"params": [param_with_gradient()]}], betas=Betas([0.9, 0.95]))  # type: ignore[arg-type]
    optimizer.add_param_group({"params": [param_with_gradient()], "betas": Betas([0.5, 0.5])})
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["betas"] = Betas([0.9, 0.95])
    optimizer.load_state_dict(state_dict)
    settings = [optimizer.defaults, *optimizer.param_groups]
    assert [type(group["betas"]) for group in settings] == [tuple] * 3


# torch.amp.GradScaler, and Lightning, which reads the same attribute


def test_amp_scaling_is_supported_only_with_fused_true() -> None:
    params = [param_with_gradient(), param_with_gradient()]
    groups: list[dict[str, Any]] = [{"params": params[:1], "fused": False}, {"params": params[1:]}]
    assert not Lion(params)._step_supports_amp_scaling
    assert not Lion(params, fused=False)._step_supports_amp_scaling
    assert Lion(params, fused=True)._step_supports_amp_scaling
    assert not Lion(groups, fused=True)._step_supports_amp_scaling


DTYPES = [torch.float32, torch.bfloat16, torch.float64]
SCALED = [*itertools.product(DTYPES, [{}, {"fused": True}, {"foreach": True}]), (torch.float16, {"fused": True})]


@pytest.mark.parametrize(("dtype", "settings"), SCALED)
@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
def test_a_grad_scalers_step_unscales_gradients_and_is_skipped_if_one_is_infinite(
    dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    # A transposed tensor, and one with gaps between its entries, which the kernel does not support.
    params = [
        with_gradient(start, 3072.0)
        for start in (torch.zeros(4, 6, dtype=dtype).T, torch.zeros(4, 6, dtype=dtype)[:, ::2])
    ]
    optimizer = Lion(params, lr=0.5, **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))  # creates the scale
    scaler.step(optimizer)
    for param in params:
        assert param.grad is not None
        assert param.grad.unique().tolist() == [3.0]
        assert optimizer.state[param]["exp_avg"].abs().max() == pytest.approx(0.03, rel=0.01)

    scaler.update()
    for param in params:
        param.grad = torch.full_like(param, float("inf"))
    scaler.step(optimizer)
    for param in params:
        assert param.unique().tolist() == [-0.5]
        assert optimizer.state[param]["exp_avg"].isfinite().all()


# Distributed checkpoints


@pytest.mark.parametrize("cpu_offload", [False, True])
@pytest.mark.parametrize("momentum_dtype", [torch.bfloat16, "bfloat16"])
def test_a_full_distributed_state_dict_restores_settings_and_state(cpu_offload: bool, momentum_dtype: Any) -> None:
    model = nn.Linear(3, 2)
    settings: dict[str, Any] = {"kahan_sum": True, "capturable": True, "momentum_dtype": momentum_dtype}
    optimizer = Lion(model.parameters(), lr=torch.tensor(0.1), **settings)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    options = StateDictOptions(full_state_dict=True, cpu_offload=cpu_offload)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    model.zero_grad()  # otherwise the new optimizer is not ready for loading
    other = Lion(model.parameters())
    set_optimizer_state_dict(model, other, saved, options=options)
    assert other.param_groups[0]["momentum_dtype"] == "bfloat16"
    torch.testing.assert_close(other.state[model.weight], optimizer.state[model.weight], rtol=0, atol=0)


def test_a_checkpoint_with_a_torch_dtype_as_momentum_dtype_loads() -> None:
    param = param_with_gradient()
    optimizer = Lion([param], momentum_dtype=torch.bfloat16)
    optimizer.step()
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["momentum_dtype"] = torch.bfloat16  # as before groups stored its name
    loaded = Lion([param])
    loaded.load_state_dict(state_dict)
    assert loaded.param_groups[0]["momentum_dtype"] == "bfloat16"
    assert loaded.state[param]["exp_avg"].dtype == torch.bfloat16
    loaded.step()


# State and settings that other code keeps in a Lion


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("of_param", [False, True])
def test_extra_state_and_settings_of_other_code_are_saved_and_loaded(of_param: bool, steps: int) -> None:
    param = param_with_gradient()
    optimizer, loaded = Lion([{"params": [param], "eps": 1e-8, "name": "head"}]), Lion([param])
    for _ in range(steps):
        optimizer.step()
    if of_param:
        optimizer.state[param]["note"] = "mine"
    else:
        optimizer.state["note"] = 1  # type: ignore[index]
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    assert loaded.param_groups[0]["eps"] == 1e-8
    loaded.step()
    assert "exp_avg" in loaded.state[param]


@pytest.mark.parametrize("wrapper", [timm.optim.Lookahead, pytorch_optimizer.Lookahead, pytorch_optimizer.TRAC])
def test_wrapped_lions_continue_after_saving_and_loading(wrapper: Callable[..., Any]) -> None:
    results = []
    for reload in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = wrapper(Lion(model.parameters(), lr=0.01))
        for step in range(12):
            if step == 6 and reload:
                state_dict = copy.deepcopy(optimizer.state_dict())
                optimizer = wrapper(Lion(model.parameters(), lr=0.01))
                optimizer.load_state_dict(state_dict)
            optimizer.zero_grad()
            model(torch.ones(1, 3) * step).square().sum().backward()
            optimizer.step()
        results.append(model.weight.detach())
    if wrapper is timm.optim.Lookahead:
        assert torch.equal(*results)
