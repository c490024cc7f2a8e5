"""Tests that need a CUDA device: the bits of foreach and of the fused kernel, CUDA graphs, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from lion import Lion, fused_cuda, lion, measure_step
from tests.lion.building import through_file, with_gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make_params(device: str) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator).to(device)) for shape in ((64, 33), (7,), (), (3, 5, 2))]


def run(optimizer: Lion, params: list[Parameter], steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param.device)
        optimizer.step()


def make_pair(
    shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[Lion, Lion, list[tuple[Parameter, Parameter]]]:
    """A fused and a foreach optimizer with equal parameters."""
    starts = [torch.randn(shape, device="cuda").to(dtype) for shape in shapes]
    fused, foreach = ([Parameter(start.clone()) for start in starts] for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.1, **settings}
    pairs = list(zip(fused, foreach, strict=True))
    return Lion(fused, fused=True, **settings), Lion(foreach, foreach=True, **settings), pairs


@contextmanager
def synchronization(mode: str) -> Iterator[None]:
    """Raise or warn when the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("momentum_dtype", [None, torch.bfloat16])
def test_gpu_weights_match_the_cpus(foreach: bool, momentum_dtype: torch.dtype | None) -> None:
    gpu, cpu = make_params("cuda"), make_params("cpu")
    for params in (gpu, cpu):
        run(Lion(params, lr=0.01, weight_decay=0.1, momentum_dtype=momentum_dtype, foreach=foreach), params, steps=20)
    for gpu_param, cpu_param in zip(gpu, cpu, strict=True):
        torch.testing.assert_close(gpu_param.cpu(), cpu_param, rtol=1e-6, atol=1e-6)


def test_a_group_can_span_gpu_and_cpu() -> None:
    params = make_params("cuda") + make_params("cpu")
    run(Lion(params, lr=0.01, foreach=True), params, steps=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kahan_sum", [False, True])
@pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")
def test_the_fused_gpu_kernel_matches_foreach_bit_for_bit(
    dtype: torch.dtype, momentum_dtype: torch.dtype, kahan_sum: bool
) -> None:
    shapes = [(1000, 999), (7,), (), (3, 5, 2, 4), (0,)] * 9
    fused, foreach, pairs = make_pair(shapes, dtype, momentum_dtype=momentum_dtype, kahan_sum=kahan_sum)
    for _ in range(5):
        for ours, theirs in pairs:
            ours.grad = theirs.grad = torch.randn_like(ours)
        fused.step()
        foreach.step()
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        for name, state in fused.state[ours].items():
            assert torch.equal(state, foreach.state[theirs][name])


@torch.no_grad()
def test_the_fused_gpu_kernel_unscales_and_skips_without_synchronizing() -> None:
    param = Parameter(torch.ones(3000, device="cuda"))
    optimizer = Lion([param], lr=0.5, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    scaler.scale(torch.zeros((), device="cuda"))  # creates the scale
    for gradient, expected in ((1024.0, 0.5), (float("inf"), 0.5)):
        param.grad = torch.full_like(param, gradient)
        scaler.step(optimizer)
        scaler.update()
        assert param.unique().tolist() == [expected]
        assert param.grad.isinf().all() or param.grad.unique().tolist() == [1.0]  # unscaled, as AdamW does
    one, zero = torch.ones(1, device="cuda"), torch.zeros(1, device="cuda")
    start, ones, momentum = param.detach(), torch.ones_like(param).detach(), torch.zeros_like(param).detach()
    settings: dict[str, Any] = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}
    with synchronization("error"):
        lion([start], [ones], [momentum], **settings, fused=True, grad_scale=one, found_inf=zero)


def test_a_state_dict_of_the_gpu_kernel_continues_in_the_cpu_loop() -> None:
    gpu, cpu = make_params("cuda"), make_params("cpu")
    optimizer = Lion(gpu, lr=0.01, weight_decay=0.1, fused=True)
    run(optimizer, gpu, steps=5)
    state_dict = through_file(optimizer.state_dict(), map_location="cpu")
    state_dict["param_groups"][0]["fused"] = False
    with torch.no_grad():
        for cpu_param, gpu_param in zip(cpu, gpu, strict=True):
            cpu_param.copy_(gpu_param)
    continued = Lion(cpu, fused=False)
    continued.load_state_dict(state_dict)
    run(continued, cpu, steps=5)
    run(optimizer, gpu, steps=5)
    for gpu_param, cpu_param in zip(gpu, cpu, strict=True):
        torch.testing.assert_close(gpu_param.cpu(), cpu_param, rtol=1e-6, atol=1e-6)


def bytes_allocated_by_a_step(optimizer: Lion) -> int:
    """The most at any time of the second step: the first one creates the state."""
    optimizer.step()
    torch.cuda.reset_peak_memory_stats()
    before_bytes = torch.cuda.memory_allocated()
    optimizer.step()
    return torch.cuda.max_memory_allocated() - before_bytes


def test_the_fused_gpu_kernel_allocates_no_memory() -> None:
    params = [with_gradient(torch.zeros(1 << 20, device="cuda")) for _ in range(40)]
    assert bytes_allocated_by_a_step(Lion(params, weight_decay=0.1, fused=True)) == 0


@pytest.mark.parametrize("fused", [None, True])
def test_a_replayed_cuda_graph_follows_a_changing_lr(fused: bool | None) -> None:
    lr = torch.tensor(0.01, device="cuda")
    captured, eager = make_params("cuda"), make_params("cuda")
    optimizer = Lion(captured, lr=lr, weight_decay=0.1, capturable=True, fused=fused)
    eager_optimizer = Lion(eager, lr=lr, weight_decay=0.1, capturable=True)
    for param, eager_param in zip(captured, eager, strict=True):
        param.grad = torch.ones_like(param)
        eager_param.grad = param.grad
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side_stream)
    eager_optimizer.step()

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(5):
        lr.fill_(0.01 / (step + 1))
        for param in captured:
            assert param.grad is not None
            param.grad.normal_()
        graph.replay()
        eager_optimizer.step()
    for param, eager_param in zip(captured, eager, strict=True):
        assert torch.equal(param, eager_param)


def test_moved_gradients_are_found_without_synchronizing() -> None:
    fused, foreach, pairs = make_pair([(1 + index % 7, 9) for index in range(1000)])
    kept = []  # so that no gradient reuses an older one's memory
    slope = torch.arange(9.0, device="cuda") - 4
    for step in range(4):
        # From here on the GPU lags behind, and would read a table that the next step has overwritten.
        torch.cuda._sleep(50_000_000)
        for ours, theirs in pairs:
            ours.grad = theirs.grad = (-1) ** step * slope.expand_as(ours).contiguous()
            kept.append(ours.grad)
        with synchronization("error"):
            fused.step()
    assert len({grad.data_ptr() for grad in kept}) == 4000
    for step in range(4):
        for (_, theirs), grad in zip(pairs, kept[1000 * step : 1000 * step + 1000], strict=True):
            theirs.grad = grad
        foreach.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_steps_on_several_cuda_streams_are_ordered() -> None:
    fused, foreach, pairs = make_pair([(1000, 1000), (7,)])
    streams = [torch.cuda.Stream() for _ in range(2)]
    kept = []
    for step in range(6):
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[step % 2]):
            for ours, theirs in pairs:
                ours.grad = theirs.grad = torch.randn_like(ours)
                kept.append(ours.grad)
            torch.cuda._sleep(10_000_000)
            fused.step()
            foreach.step()
            if step % 3 == 0:
                kept.clear()
    torch.cuda.synchronize()
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@torch.no_grad()
def test_a_cuda_graph_replays_correctly_after_other_steps_and_freed_tables() -> None:
    lr = torch.tensor(0.01, device="cuda")
    fused, foreach, pairs = make_pair([(1 + index % 7, 9) for index in range(200)], lr=lr, capturable=True)
    grads = [torch.ones_like(ours) for ours, _ in pairs]
    for (ours, theirs), grad in zip(pairs, grads, strict=True):
        ours.grad, theirs.grad = torch.zeros_like(grad), grad
    fused.step()
    for (ours, _), grad in zip(pairs, grads, strict=True):
        ours.grad = grad
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused.step()
    for _ in range(3):  # with other tables
        for ours, _ in pairs:
            ours.grad = torch.zeros_like(ours)
        fused.step()
    for ours, theirs in pairs:
        ours.copy_(theirs)
        fused.state[ours]["exp_avg"].zero_()
    fused_cuda._tables.clear()
    # Freed memory is overwritten.
    littered = [torch.full((2 ** (4 + index % 12),), -1, device="cuda") for index in range(500)]
    littered += [torch.full((2 ** (4 + index % 12),), -1).pin_memory() for index in range(50)]
    for step in range(5):
        lr.fill_(0.01 / (step + 1))
        for grad in grads:
            grad.normal_()
        graph.replay()
        foreach.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert littered


@torch.no_grad()
def test_a_tensor_with_more_than_2_31_entries_is_stepped() -> None:
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GiB")
    entries = 2**31 + 2**13 + 5
    param, grad, exp_avg = (torch.zeros(entries, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    grad[-(2**13) - 8 :] = 1
    settings: dict[str, Any] = {"lr": 0.5, "beta1": 0.5, "beta2": 0.5, "weight_decay": 0.0}
    lion([param], [grad], [exp_avg], **settings, fused=True)
    assert param[-(2**13) - 8 :].unique().tolist() == [-0.5]
    assert exp_avg[-(2**13) - 8 :].unique().tolist() == [0.5]
    assert not param[: -(2**13) - 8].any()


def test_foreach_allocates_at_most_two_copies_of_the_parameters() -> None:
    params = [with_gradient(torch.zeros(1 << 20, device="cuda")) for _ in range(16)]  # 64 MiB
    allocated = bytes_allocated_by_a_step(Lion(params, weight_decay=0.1, foreach=True))
    assert allocated <= 2 * 64 * 2**20 + 2**20


def test_measure_step_synchronizes_once() -> None:
    params = make_params("cuda")
    optimizer = Lion(params)
    run(optimizer, params, steps=1)
    with synchronization("warn"), pytest.warns(UserWarning, match="synchronizing") as caught:
        measure_step(optimizer)
    assert len(caught) == 1
