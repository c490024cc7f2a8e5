"""The fused back end matches the loop bit for bit on tensors of every kind and has no other effect."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from lion import Lion, lion
from tests.lion.building import take_steps, threads, with_gradient

DTYPES = (torch.float32, torch.bfloat16)
CHUNK = 1 << 14  # kChunk of fused_cpu.cpp
ENTRIES = 1003

pytestmark = pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor,
    "channels_last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 1),
    "every second": lambda tensor: torch.stack([tensor, tensor], -1)[..., 0],
    "expanded": lambda tensor: tensor[:1, :1, :1].expand_as(tensor),
}


def stepped(starts: list[Tensor], gradients: list[list[Tensor]], **settings: Any) -> tuple[list[Parameter], Lion]:
    params = [Parameter(start.clone(memory_format=torch.preserve_format)) for start in starts]
    optimizer = Lion(params, **settings)
    take_steps(optimizer, params, gradients)
    return params, optimizer


def assert_same_bits(starts: list[Tensor], gradients: list[list[Tensor]], **settings: Any) -> None:
    """Require the same bits from the fused back end and the loop after these steps."""
    fused, fused_optimizer = stepped(starts, gradients, fused=True, **settings)
    loop, loop_optimizer = stepped(starts, gradients, foreach=False, fused=False, **settings)
    for ours, theirs in zip(fused, loop, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(
            fused_optimizer.state[ours], loop_optimizer.state[theirs], rtol=0, atol=0, equal_nan=True
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    shapes=st.lists(
        st.sampled_from([(70, 70), (8, 16, 6, 6), (3 * CHUNK + 5,), (CHUNK,), (1,), (), (0, 3)]),
        min_size=1,
        max_size=4,
    ),
    dtype=st.sampled_from([*DTYPES, torch.float64, torch.float16, torch.complex64]),
    momentum_dtype=st.sampled_from([None, *DTYPES]),
    lr=st.floats(1e-5, 1.0),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    weight_decay=st.sampled_from([0.0, 0.1, 3.0]),
    tensor_lr=st.booleans(),
    maximize=st.booleans(),
    kahan_sum=st.booleans(),
)
def test_the_fused_step_matches_the_loop_bit_for_bit(
    seed: int,
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    momentum_dtype: torch.dtype | None,
    lr: float,
    tensor_lr: bool,
    **more: Any,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(shape: tuple[int, ...]) -> Tensor:
        return (torch.randn(shape, generator=generator) * 10.0 ** (seed % 7 - 3)).to(dtype)

    starts = [random(shape) for shape in shapes]
    gradients = [[random(shape) for shape in shapes] for _ in range(3)]
    assert_same_bits(
        starts,
        gradients,
        lr=torch.tensor(lr) if tensor_lr else lr,
        momentum_dtype=None if dtype.is_complex else momentum_dtype,
        **more,
    )


@pytest.mark.parametrize("of_param", [name for name in LAYOUTS if name != "expanded"])
@pytest.mark.parametrize("of_gradient", LAYOUTS)
def test_the_fused_step_matches_the_loop_for_any_memory_layout(of_param: str, of_gradient: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(12, 12, 6, 8, generator=generator) for _ in range(4))
    assert_same_bits(
        [LAYOUTS[of_param](start)],
        [[LAYOUTS[of_gradient](gradient)] for gradient in gradients],
        lr=0.01,
        weight_decay=0.1,
    )


@pytest.mark.parametrize("momentum_dtype", DTYPES)
def test_the_fused_step_handles_special_values_like_the_loop(momentum_dtype: torch.dtype) -> None:
    start = torch.ones(ENTRIES)
    gradient = torch.zeros(ENTRIES)
    gradient[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    gradient[4:6] = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32)  # NaN, overflows if rounded
    settings = {"lr": 0.01, "weight_decay": 0.1, "momentum_dtype": momentum_dtype}
    assert_same_bits([start], [[gradient], [torch.zeros_like(gradient)]], **settings)


def test_the_fused_step_keeps_the_sign_of_zero() -> None:
    start = torch.zeros(ENTRIES)
    start[::2] = -0.0
    params, _ = stepped([start], [[torch.zeros(ENTRIES)]], lr=0.01, weight_decay=0.1, fused=True)
    assert torch.equal(torch.signbit(params[0]), torch.signbit(start))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bfloat16_value_is_rounded_like_the_loop(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    start = every[torch.isfinite(every)]
    gradient = start.flip(0)
    for momentum_dtype in DTYPES:
        settings = {"lr": 1e-3, "weight_decay": 0.5, "momentum_dtype": momentum_dtype, "kahan_sum": True}
        assert_same_bits([start.to(dtype)], [[gradient.to(dtype)]] * 3, **settings)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_fused_step_covers_all_entries_with_any_number_of_threads(number: int) -> None:
    starts = [torch.zeros(entries) for entries in (1, 2 * CHUNK + 1, 0, 0, CHUNK, 7, 0)]
    gradients = [torch.ones_like(start) for start in starts]
    with threads(number):
        params, _ = stepped(starts, [gradients, gradients], lr=0.25, fused=True)
    assert torch.cat([param.detach() for param in params]).unique().tolist() == [-0.5]


def test_tensors_the_kernel_does_not_support_are_left_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[int] = []
    monkeypatch.setattr("lion.fused._single_tensor_lion", lambda params, *_, **__: loops.append(len(params)))
    starts = [torch.zeros(3), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float64)]
    starts.append(torch.zeros(2, 3).T)
    params, _ = stepped(starts, [[torch.ones_like(start) for start in starts]], lr=0.5, fused=True)
    assert [param.unique().tolist() for param in params] == [[-0.5], [-0.5], [0.0], [-0.5]]
    assert loops == [1]


def test_what_lies_between_a_tensors_entries_is_left_alone() -> None:
    wholes = [torch.full((100,), start) for start in (1.0, 1.0, 0.0)]
    param, grad, exp_avg = (whole[::2] for whole in wholes)
    with torch.no_grad():
        lion([param], [grad], [exp_avg], lr=0.5, beta1=0.9, beta2=0.5, weight_decay=0.0, fused=True)
    assert [whole[:2].tolist() for whole in wholes] == [[0.5, 1.0], [1.0, 1.0], [0.5, 0.0]]


def test_a_lazily_negated_gradient_is_resolved() -> None:
    gradient = torch.tensor(1 + 1j).conj().imag
    assert gradient.is_neg()
    params, _ = stepped([torch.zeros(())], [[gradient]], lr=0.5, fused=True)
    assert params[0].item() == 0.5


def test_autograd_notices_the_in_place_fused_step() -> None:
    param = with_gradient(torch.ones(ENTRIES))
    loss = param.square().sum()
    Lion([param], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
