"""Tensors of all kinds that change between steps: all back ends take the same steps or raise, and none crashes."""

import contextlib
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter

from lion import Lion, doctor_rule

BACK_ENDS: list[dict[str, Any]] = [{"foreach": False}, {"foreach": True}, {}, {"fused": True}]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float64: 2**-53}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters"),
    pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters"),
]

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "transposed": lambda tensor: tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.ndim else tensor,
    "channels_last": lambda tensor: tensor.contiguous(
        memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    ),
    "every second": lambda tensor: torch.stack([tensor, tensor], -1)[..., 0],
    "misaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}


# Changes to a parameter's data or momentum between two steps.
CAST = {f"to {dtype}": methodcaller("to", dtype) for dtype in DTYPES}
OF_DATA: dict[str, Callable[[Tensor], Tensor]] = {
    **CAST,
    **LAYOUTS,
    "grow": lambda data: torch.cat([data.flatten(), data.new_ones(9)]),
    "shrink": lambda data: data.flatten()[:1].clone(),
    "flatten": lambda data: data.flatten(),
}
OF_MOMENTUM: dict[str, Callable[[Tensor], Tensor]] = {
    **{f"momentum {name}": cast for name, cast in CAST.items()},
    "momentum shrinks": lambda momentum: momentum.flatten()[:1].clone(),
    "momentum moves away": lambda momentum: momentum.to("meta"),
}
CHANGES = [*OF_DATA, *OF_MOMENTUM, "forget", "freeze", "nothing"]

GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    **LAYOUTS,
    "expanded": lambda tensor: (
        tensor.flatten()[:1].expand(tensor.numel()).view(tensor.shape) if tensor.numel() else tensor
    ),
    "negated": lambda tensor: torch.complex(tensor.float(), tensor.float()).conj().imag.to(tensor.dtype),
    "zero": lambda tensor: torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype, device=tensor.device),
}

TENSORS = st.fixed_dictionaries(
    {
        "shape": st.sampled_from([(), (1,), (7,), (5, 3), (2, 3, 4, 4), (0,), (3, 0), (1, 6, 1, 1), (70_000,)]),
        "dtype": st.sampled_from(DTYPES),
        "layout": st.sampled_from(list(LAYOUTS)),
    }
)
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(CHANGES), st.sampled_from(list(GRADIENTS))),
    min_size=1,
    max_size=4,
)


class Scenario:
    """One optimizer and its tensors, which the same seeds make identical for every back end."""

    def __init__(self, tensors: list[dict[str, Any]], device: str, shared: bool, seed: int, **options: Any) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device
        starts = [LAYOUTS[given["layout"]](self.random(given["shape"], given["dtype"])) for given in tensors]
        self.params = [Parameter(start) for start in starts]
        if shared:
            self.params.append(Parameter(starts[0].view_as(starts[0])))
        self.optimizer = Lion(self.params, **options)

    def random(self, shape: Any, dtype: torch.dtype) -> Tensor:
        # Multiples of a quarter, exact in every dtype, so that changing the dtype loses no bits.
        values = torch.randint(-8, 9, tuple(shape), generator=self.generator) / 4
        return values.to(dtype).to("meta" if self.device == "meta" else "cpu")

    def change(self, param: Parameter, change: str) -> None:
        if change in OF_DATA:
            param.data = OF_DATA[change](param.data)
        elif change in OF_MOMENTUM and "exp_avg" in self.optimizer.state[param]:
            self.optimizer.state[param]["exp_avg"] = OF_MOMENTUM[change](self.optimizer.state[param]["exp_avg"])
        elif change == "forget":
            self.optimizer.state.pop(param, None)
        elif change == "freeze":
            param.requires_grad_(False)

    def step(self, index: int, change: str, gradient: str) -> str:
        """The type of the error, if any."""
        for param in self.params:
            if param.requires_grad:
                param.grad = None
        self.change(self.params[index % len(self.params)], change)
        for param in self.params:
            if param.requires_grad:
                param.grad = GRADIENTS[gradient](self.random(param.shape, param.dtype))
        try:
            self.optimizer.step()
        except (RuntimeError, ValueError) as error:
            return type(error).__name__
        return ""

    def values(self) -> list[Tensor]:
        """Parameters and all of their state."""
        state = [self.optimizer.state.get(param, {}) for param in self.params]
        return [*(param.detach() for param in self.params), *(tensor for kept in state for tensor in kept.values())]


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.lists(TENSORS, min_size=1, max_size=3),
    steps=STEPS,
    device=st.sampled_from(["cpu", "cpu", "cpu", "meta", "fake"]),
    shared=st.booleans(),
    seed=st.integers(0, 2**20),
    lr=st.sampled_from([0.25, 0.0, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.5]),
    momentum_dtype=st.sampled_from([None, *DTYPES]),
    kahan_sum=st.booleans(),
    maximize=st.booleans(),
)
def test_all_back_ends_take_the_same_steps_or_raise(
    tensors: list[dict[str, Any]],
    steps: list[tuple[int, str, str]],
    device: str,
    shared: bool,
    seed: int,
    **options: Any,
) -> None:
    back_ends = [
        back_end
        for back_end in BACK_ENDS
        if not (shared and back_end.get("foreach")) and not (device == "meta" and back_end.get("fused"))
    ]  # foreach decays all tensors before it updates any, like torch.optim's, and the kernel needs devices with memory
    with FakeTensorMode() if device == "fake" else contextlib.nullcontext():
        scenarios = [Scenario(tensors, device, shared, seed, **options, **back_end) for back_end in back_ends]
        for index, change, gradient in steps:
            # Not covered: memory shared by tensors of two kinds, since each kind is stepped separately.
            step = (index, "nothing" if shared else change, gradient)
            errors = {scenario.step(*step) for scenario in scenarios}
            assert len(errors) == 1, errors
            if errors != {""}:
                break
            values = [scenario.values() for scenario in scenarios]
            for others in values[1:]:
                for ours, theirs in zip(values[0], others, strict=True):
                    if device == "cpu" and not ours.is_meta:
                        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
                    else:
                        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


@settings(max_examples=80, deadline=None)
@given(
    tensors=st.lists(TENSORS, min_size=1, max_size=3),
    gradient=st.sampled_from(list(GRADIENTS)),
    back_end=st.sampled_from(BACK_ENDS),
    seed=st.integers(0, 2**20),
    lr=st.floats(0, 0.25),
    betas=st.tuples(*[st.just(0.0) | st.floats(0.01, 0.999)] * 2),
    weight_decay=st.floats(0, 4),
    momentum_dtype=st.sampled_from([None, *DTYPES]),
    maximize=st.booleans(),
)
def test_each_step_matches_the_update_rule_within_rounding(
    tensors: list[dict[str, Any]],
    gradient: str,
    back_end: dict[str, Any],
    seed: int,
    momentum_dtype: torch.dtype | None,
    **options: Any,
) -> None:
    scenario = Scenario(tensors, "cpu", False, seed, momentum_dtype=momentum_dtype, **options, **back_end)
    for _ in range(3):
        before = [param.detach().clone() for param in scenario.params]
        zeros = [torch.zeros_like(param) for param in scenario.params]
        state = scenario.optimizer.state
        momenta = [state[p].get("exp_avg", zero).clone() for p, zero in zip(scenario.params, zeros, strict=True)]
        assert scenario.step(0, "nothing", gradient) == ""
        for param, weight, momentum in zip(scenario.params, before, momenta, strict=True):
            assert param.grad is not None
            expected, expected_momentum, beyond_doubt = doctor_rule.step(weight, param.grad, momentum, **options)
            kept = state[param]["exp_avg"]
            off, off_momentum = (param.detach().double() - expected).abs(), (kept.double() - expected_momentum).abs()
            assert (off <= 4 * UNIT[param.dtype] * (expected.abs() + 1))[beyond_doubt].all()
            assert (off_momentum <= 4 * UNIT[kept.dtype] * (expected_momentum.abs() + 1)).all()
