"""Lion and AdamW on the inputs of PyTorch's own optimizer tests, which are part of its package."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    _get_optim_inputs_including_global_cliquey_kwargs,
    optim_db,
    optim_error_inputs_func_adamw,
    optim_inputs_func_adamw,
)

from lion import Lion
from tests.lion.building import through_file

# That import freezes the flags of PyTorch's back ends, but runs in other tests of this process must set them.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

CPU = torch.device("cpu")
OWN_SETTINGS: list[dict[str, Any]] = [
    {"cautious": True},
    {"momentum_dtype": torch.bfloat16, "weight_decay": 0.1},
    {"kahan_sum": True, "betas": (0.95, 0.98)},
]


def lion_inputs(device: str) -> list[OptimizerInput]:
    """The settings that Lion shares with AdamW, and its own."""
    shared = [given for given in optim_inputs_func_adamw(device) if "amsgrad" not in given.kwargs]
    return shared + [OptimizerInput(params=cast(Any, None), kwargs=kwargs, desc=str(kwargs)) for kwargs in OWN_SETTINGS]


ADAMW: Any = next(info for info in optim_db if info.optim_cls == cast(Any, torch.optim.AdamW))
LION: Any = OptimizerInfo(
    cast(Any, Lion),
    optim_inputs_func=lion_inputs,
    scheduler_inputs=ADAMW.scheduler_inputs,
    supported_impls=ADAMW.supported_impls,
    not_og_supported_flags=ADAMW.not_og_supported_flags,
    has_capturable_arg=True,
    optim_error_inputs_func=optim_error_inputs_func_adamw,
    supports_fused_on=("cpu", "cuda"),
)


def inputs() -> Iterator[Any]:
    """Both optimizers with all their settings and back ends, in every valid combination."""
    for info in (ADAMW, LION):
        for given in _get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info):
            excluded = given.kwargs.get("cautious") and given.kwargs.get("fused")
            if not excluded and not given.kwargs.get("differentiable"):
                kwargs = {"lr": 1e-3} | given.kwargs
                yield pytest.param(info.optim_cls, kwargs, id=f"{info.optim_cls.__name__}-{given.desc}")


ALL_INPUTS = pytest.mark.parametrize(("optimizer_class", "kwargs"), list(inputs()))


def make_problem(dtype: torch.dtype = torch.float32) -> tuple[Parameter, Parameter, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((10, 5), (10,), (5,))
    weight, bias, given = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return Parameter(weight), Parameter(bias), given


def train(optimizer: Any, problem: tuple[Parameter, Parameter, Tensor], steps: int) -> list[float]:
    weight, bias, given = problem
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = (weight.mv(given) + bias).abs().pow(2).sum()
        if optimizer.param_groups[0].get("maximize"):
            (-loss).backward()
        else:
            loss.backward()
        return loss

    for _ in range(steps):
        losses.append(optimizer.step(closure).item())
    return losses


@ALL_INPUTS
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_loss_decreases_on_pytorchs_optimizer_inputs(
    optimizer_class: Any, kwargs: dict[str, Any], scheduled: bool
) -> None:
    problem = make_problem()
    optimizer = optimizer_class(problem[:2], **kwargs)
    if scheduled:
        schedulers = [make(optimizer) for make in ADAMW.scheduler_inputs[0]]
    losses = []
    for _ in range(20):
        losses += train(optimizer, problem, 1)
        if scheduled:
            schedulers[0].step()
            schedulers[1].step(losses[-1])
    assert losses[-1] < losses[0]


def refuse_complex(optimizer_class: Any, kwargs: dict[str, Any]) -> bool:
    """Lion with a dtype of the momentum, and fused AdamW."""
    return bool(kwargs.get("momentum_dtype") or (kwargs.get("fused") and optimizer_class is not Lion))


@ALL_INPUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
def test_every_back_end_matches_the_single_tensor_loop(
    dtype: torch.dtype, optimizer_class: Any, kwargs: dict[str, Any]
) -> None:
    if (dtype.is_complex and refuse_complex(optimizer_class, kwargs)) or (
        dtype == torch.bfloat16 and optimizer_class is not Lion
    ):
        pytest.skip("complex parameters are refused, and the back ends of AdamW round low precision in different ways")
    results = []
    loop = {"foreach": False, "fused": False}
    for settings in (kwargs, kwargs | loop):
        problem = make_problem(dtype)
        train(optimizer_class(problem[:2], **settings), problem, 7)
        results.append(torch.cat([problem[0].flatten(), problem[1]]))
    if optimizer_class is Lion:
        assert torch.equal(*results)
    torch.testing.assert_close(*results)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda given: pickle.loads(pickle.dumps(given)),
}


@ALL_INPUTS
@pytest.mark.parametrize("copier", COPIES)
def test_training_continues_identically_from_a_copy(copier: str, optimizer_class: Any, kwargs: dict[str, Any]) -> None:
    problem = make_problem()
    optimizer = optimizer_class(problem[:2], **kwargs)
    train(optimizer, problem, 3)
    other_optimizer, *other_problem = COPIES[copier]((optimizer, *problem))
    assert train(optimizer, problem, 5) == train(other_optimizer, tuple(other_problem), 5)
    assert repr(optimizer) == repr(other_optimizer)


@ALL_INPUTS
def test_training_continues_identically_from_a_saved_state(optimizer_class: Any, kwargs: dict[str, Any]) -> None:
    problem = make_problem()
    optimizer = optimizer_class(problem[:2], **kwargs)
    train(optimizer, problem, 3)
    other_problem = copy.deepcopy(problem)
    other_optimizer = optimizer_class(other_problem[:2])  # the settings are loaded too
    other_optimizer.load_state_dict(through_file(optimizer.state_dict()))
    assert train(optimizer, problem, 5) == train(other_optimizer, other_problem, 5)


@ALL_INPUTS
def test_parameters_without_gradient_or_with_lr_0_do_not_change(optimizer_class: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, given = make_problem()
    idle = Parameter(torch.ones(3))
    groups = [{"params": [weight]}, {"params": [bias, idle], "lr": 0.0}]
    before = [tensor.detach().clone() for tensor in (weight, bias, idle)]
    optimizer = optimizer_class(groups, **kwargs)
    train(optimizer, (weight, bias, given), 2)
    unchanged = [torch.equal(now, then) for now, then in zip((weight, bias, idle), before, strict=True)]
    assert unchanged == [False, True, True]
    assert idle not in optimizer.state


@ALL_INPUTS
def test_step_and_state_dict_hooks_run_in_order(optimizer_class: Any, kwargs: dict[str, Any]) -> None:
    problem = make_problem()
    optimizer = optimizer_class(problem[:2], **kwargs)
    start, calls = problem[0].detach().clone(), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before" if torch.equal(problem[0], start) else "late"))
    optimizer.register_step_post_hook(lambda *_: calls.append("early" if torch.equal(problem[0], start) else "after"))
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("saving"))
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    train(optimizer, problem, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["before", "after", "saving", "loaded"]


@ALL_INPUTS
def test_a_complex_parameter_steps_like_its_real_view(optimizer_class: Any, kwargs: dict[str, Any]) -> None:
    if refuse_complex(optimizer_class, kwargs) or kwargs.get("cautious"):
        pytest.skip("complex parameters are refused, or the scale of a cautious step counts their entries")
    torch.manual_seed(0)
    whole = Parameter(torch.randn(7, dtype=torch.complex64))
    parts = Parameter(torch.view_as_real(whole.detach()).clone())
    optimizers = [optimizer_class([param], **kwargs) for param in (whole, parts)]
    for _ in range(3):
        whole.grad = torch.randn_like(whole)
        parts.grad = torch.view_as_real(whole.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(whole.detach()), parts.detach())


@pytest.mark.parametrize(
    "given", optim_error_inputs_func_adamw("cpu", torch.float32), ids=lambda given: given.optimizer_error_input.desc
)
def test_lion_refuses_what_adamw_refuses(given: ErrorOptimizerInput) -> None:
    error_input = given.optimizer_error_input
    assert given.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    params = error_input.params if error_input.params is not None else [Parameter(torch.zeros(1))]
    # Lion never accepts tensors as betas, and has its own error message for them.
    regex = "betas must be two floats" if "betas" in error_input.desc else given.error_regex
    if issubclass(given.error_type, Warning):
        with pytest.warns(given.error_type, match=regex):
            Lion(params, **error_input.kwargs)
    else:
        with pytest.raises(given.error_type, match=regex):
            Lion(params, **error_input.kwargs)
