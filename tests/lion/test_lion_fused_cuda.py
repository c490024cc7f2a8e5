"""The CUDA kernel without a GPU: its bits in Triton's interpreter, and the code that Triton compiles for a GPU."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.backends.compiler import GPUTarget

from lion import Lion, fused_cuda, lion
from lion.fused import KERNELS, _kernel
from tests.lion.building import with_gradient

DTYPES = (torch.float32, torch.bfloat16)
SCALARS: dict[str, Any] = {"lr": 0.1, "decay": 0.9, "beta1": 0.9, "beta2": 0.99, "sign": 1}
BLOCK = fused_cuda.BLOCK
SIZES = [0, 1, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    """lion/fused_cuda.py with its kernel interpreted, on CPU tensors."""
    spec = importlib.util.spec_from_file_location("lion_fused_cuda_interpreted", fused_cuda.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
        yield module


def random_rows(seed: int, sizes: list[int]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(size, generator=generator) for _ in range(3)] for size in sizes]


def columns(rows: list[list[Tensor]]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*rows, strict=True)]


def assert_matches_the_loop(
    step: Callable[..., bool],
    rows: list[list[Tensor]],
    lr: float | Tensor = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.1,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
) -> None:
    """Require the same bits from a fused step and the loop's, both from these rows."""
    params, grads, exp_avgs = ([row[column].clone() for row in rows] for column in range(3))
    settings: dict[str, Any] = {"lr": lr, "beta1": betas[0], "beta2": betas[1]}
    sign = -1 if maximize else 1
    assert step(columns(rows), **settings, decay=1 - lr * weight_decay, sign=sign, grad_scale=grad_scale)
    if grad_scale is not None:
        grads = [grad / grad_scale for grad in grads]
    settings |= {"weight_decay": weight_decay, "maximize": maximize}
    lion(params, grads, exp_avgs, **settings, foreach=False, fused=False)
    for ours, theirs in zip(rows, zip(params, grads, exp_avgs, strict=True), strict=True):
        for column in (0, 2):
            torch.testing.assert_close(ours[column], theirs[column], rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=5),
    lr=st.floats(1e-5, 1.0),
    tensor_lr=st.booleans(),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    weight_decay=st.sampled_from([0.0, 0.1, 3.0]),
    maximize=st.booleans(),
    scaled=st.booleans(),
)
def test_the_cuda_kernel_matches_the_loop_bit_for_bit(
    interpreted: ModuleType, seed: int, sizes: list[int], lr: float, tensor_lr: bool, scaled: bool, **more: Any
) -> None:
    assert_matches_the_loop(
        interpreted.step,
        random_rows(seed, sizes),
        lr=torch.tensor(lr) if tensor_lr else lr,
        grad_scale=torch.tensor(1024.0) if scaled else None,
        **more,
    )


def test_tensors_the_cuda_kernel_does_not_support_are_left_to_the_operators(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lion.fused._kernel", lambda *kind: interpreted)
    taken: list[int] = []
    step = interpreted.step

    def counted(columns: list[list[Tensor]], **scalars: Any) -> bool:
        took: bool = step(columns, **scalars)
        taken.append(len(columns[0]) * took)
        return took

    monkeypatch.setattr(interpreted, "step", counted)
    memory = torch.zeros(BLOCK)
    params = [with_gradient(start) for start in (memory[:9], memory[17:33], torch.zeros(2, 3).T)]
    Lion(params, lr=0.5, fused=True).step()
    assert taken == [0, 2]
    assert [param.unique().tolist() for param in params] == [[-0.5]] * 3
    assert memory.sum() == -0.5 * (9 + 16)


@pytest.mark.parametrize("tensors", [1, 2, 3, 31, 70])
def test_the_cuda_kernel_steps_any_number_of_tensors(interpreted: ModuleType, tensors: int) -> None:
    assert_matches_the_loop(interpreted.step, random_rows(0, [400 * (index % 4) for index in range(tensors)]))


def test_tensors_moved_since_the_last_step_are_found(interpreted: ModuleType) -> None:
    rows = random_rows(0, [1, BLOCK + 1, 0, 5])
    assert_matches_the_loop(interpreted.step, rows)
    assert_matches_the_loop(interpreted.step, rows)
    for column in (1, 2, 0):
        for row in rows:
            row[column] = torch.randn_like(row[column])
        assert_matches_the_loop(interpreted.step, rows)


def test_address_tables_are_kept_per_model_up_to_a_limit(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreted, "TABLES", 2)
    interpreted._tables.clear()
    models = [random_rows(seed, [5, 6]) for seed in range(3)]
    for model in models[:2]:
        assert_matches_the_loop(interpreted.step, model)
    tables = [*interpreted._tables.values()]
    for model in models[:2]:
        assert_matches_the_loop(interpreted.step, model)
    assert [*map(id, interpreted._tables.values())] == [*map(id, tables)]
    for model in models[::-1]:
        assert_matches_the_loop(interpreted.step, model)
        assert len(interpreted._tables) == 2


CHANGES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "strides": lambda param, _: param.t_(),
    "size": lambda param, _: param.resize_(2, 8),
    "dtype": lambda param, _: setattr(param, "data", param.data.view(torch.int32)),
    "negation": lambda param, _: setattr(param, "data", torch._neg_view(param.data)),
    "alignment": lambda param, _: setattr(param, "data", torch.zeros(17)[1:].view(4, 4)),
    "shared memory": lambda param, other: setattr(param, "data", other.data),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tensors_changed_in_place_since_the_last_step_are_noticed(
    interpreted: ModuleType, change: Callable[[Tensor, Tensor], Any]
) -> None:
    columns = [[torch.ones(4, 4), torch.ones(4, 4)] for _ in range(3)]
    assert interpreted.step(columns, **SCALARS)
    change(columns[0][1], columns[0][0])
    assert not interpreted.step(columns, **SCALARS)


def test_the_cuda_kernel_handles_special_values_like_the_loop(interpreted: ModuleType) -> None:
    (row,) = random_rows(0, [BLOCK])
    row[1][:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 0.0])
    row[2][3:6] = 0.0
    row[0][3:6] = torch.tensor([0.0, -0.0, 1.0])
    assert_matches_the_loop(interpreted.step, [row])
    assert torch.signbit(row[0][3:5]).tolist() == [False, True]


def test_the_cuda_kernel_writes_nothing_beyond_a_tensor(interpreted: ModuleType) -> None:
    memory = [torch.full((3 * BLOCK,), 7.0) for _ in range(3)]
    rows = [[tensor[start : start + size] for tensor in memory] for start, size in ((0, 1001), (2 * BLOCK, 3))]
    assert_matches_the_loop(interpreted.step, rows)
    for tensor in memory:
        assert (tensor[1001 : 2 * BLOCK] == 7).all()
        assert (tensor[2 * BLOCK + 3 :] == 7).all()


def test_the_cuda_step_is_skipped_when_found_inf_is_set(interpreted: ModuleType) -> None:
    rows = random_rows(0, [BLOCK + 3])
    before = [tensor.clone() for tensor in rows[0]]
    interpreted.step(columns(rows), **SCALARS, found_inf=torch.tensor(1.0))
    assert all(torch.equal(now, then) for now, then in zip(rows[0], before, strict=True))
    interpreted.step(columns(rows), **SCALARS, found_inf=torch.tensor(0.0))
    assert not torch.equal(rows[0][0], before[0])


@pytest.mark.parametrize(
    ("param_dtype", "momentum_dtype"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_the_cuda_kernel_reads_and_writes_bfloat16(
    interpreted: ModuleType, param_dtype: torch.dtype, momentum_dtype: torch.dtype
) -> None:
    # Only numbers that need no rounding: the interpreter truncates to bfloat16, a GPU rounds to nearest.
    param = torch.arange(-64, 64).to(param_dtype)
    grad = torch.arange(64, -64, -1).to(param_dtype)
    exp_avg = torch.arange(0, 256, 2).sub(128).to(momentum_dtype)
    assert_matches_the_loop(interpreted.step, [[param, grad, exp_avg]], lr=1.0, weight_decay=0.0, betas=(0.5, 0.5))


def test_kahan_compensation_keeps_what_rounding_loses(interpreted: ModuleType) -> None:
    param, grad = torch.full((BLOCK + 1,), 256.0).bfloat16(), torch.ones(BLOCK + 1).bfloat16()
    row = [param, grad, torch.zeros(BLOCK + 1), torch.zeros_like(param)]
    for steps in range(1, 20):
        interpreted.step([[tensor] for tensor in row], lr=2.0**-4, decay=1.0, beta1=0.9, beta2=0.99, sign=1)
        assert torch.equal(param.float() + row[3].float(), torch.full((BLOCK + 1,), 256 - steps / 16))


class Compiled(list[Any]):
    """The compiled kernels, and the compute capability to compile for."""

    capability = 90


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """What Triton compiles for an H100 when `fused_cuda.step` is called, in place of launching it."""
    kernels = Compiled()
    update = fused_cuda._update

    class Compiler:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **options: kernels.append(update.warmup(*args, grid=grid, **options))

    gpu = SimpleNamespace(
        get_current_device=lambda: kernels.capability,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", kernels.capability, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", gpu)
    monkeypatch.setattr(fused_cuda, "_update", Compiler())
    return kernels


def test_one_compiled_cuda_kernel_serves_every_model(compiled: Compiled) -> None:
    for seed, sizes in enumerate([[1], [16, 17], [2**20], [5] * 16, [5] * 70]):
        fused_cuda.step(columns(random_rows(seed, sizes)), **{**SCALARS, "lr": seed or 0.5, "beta1": 0.0})
    assert len(compiled) == 5
    assert len({id(kernel) for kernel in compiled}) == 1


def test_cuda_kernels_for_all_argument_kinds_are_compiled_before_the_first_step(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_cuda, "are_fusible", lambda *_: True)  # although they have no memory
    meta, float32 = torch.device("meta"), torch.float32
    compile_kernel: Any = _kernel.__wrapped__  # without its cache
    monkeypatch.setitem(KERNELS, "meta", "lion.fused_cuda")
    assert compile_kernel(True, meta, float32, float32, float32) is fused_cuda
    ready = {id(kernel) for kernel in compiled}
    one = torch.ones((), device=meta)
    unscaled: dict[str, Any] = {"found_inf": one}  # by GradScaler.unscale_, before gradients are clipped
    kinds = [(lr, scaling) for lr in (0.1, one) for scaling in ({}, unscaled, {"grad_scale": one, **unscaled})]
    for lr, scaling in kinds:
        tensors = [[torch.zeros(BLOCK, device=meta)] for _ in range(3)]
        fused_cuda.step(tensors, lr=lr, decay=lr, beta1=0.9, beta2=0.99, sign=-1, **scaling)
    assert len({id(kernel) for kernel in compiled}) == len(kinds)
    assert {id(kernel) for kernel in compiled} == ready


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(
    "dtypes",
    [
        *([param, param, exp_avg] for param in DTYPES for exp_avg in DTYPES),
        *([torch.bfloat16, torch.bfloat16, exp_avg, torch.bfloat16] for exp_avg in DTYPES),
    ],
)
def test_compiled_cuda_code_has_16_byte_accesses_and_rounds_like_the_operators(
    compiled: Compiled, dtypes: list[torch.dtype], capability: int
) -> None:
    compiled.capability = capability
    fused_cuda.step([[torch.zeros(BLOCK, dtype=dtype)] for dtype in dtypes], **SCALARS)
    (kernel,) = compiled
    code = kernel.asm["ptx"]
    entries_of_a_thread = BLOCK // (32 * kernel.metadata.num_warps)
    widest_bytes = max(dtype.itemsize for dtype in dtypes)

    def accesses(dtypes: list[torch.dtype]) -> dict[str, int]:
        """Accesses have 16 bytes for the widest dtype, and as many entries, 8 bytes, for the narrower one."""
        counts = {"v4": 0, "v2": 0}
        for dtype in dtypes:
            counts["v4" if dtype.itemsize == widest_bytes else "v2"] += entries_of_a_thread * widest_bytes // 16
        return counts

    for direction, columns in (("ld", dtypes), ("st", [dtypes[0], *dtypes[2:]])):
        found = {wide: len(re.findall(rf"{direction}\.global\.{wide}\.b32", code)) for wide in ("v4", "v2")}
        assert found == accesses(columns)
    # Twice, because the last block of a tensor has separate code, with a mask.
    fmas = re.findall(r"\bfma\S*", code)
    assert set(fmas) <= {"fma.rn.f32", "fma.rn.f32x2"}
    assert sum(1 + fma.endswith("x2") for fma in fmas) == 2 * entries_of_a_thread
    assert set(re.findall(r"cvt\.\S*bf16\S*\.f32", code)) <= {"cvt.rn.bf16.f32", "cvt.rn.bf16x2.f32"}
    assert ".local" not in code
    assert "bar.sync" not in code  # as when the entries per thread differ between dtypes
