"""What only a CUDA device can show: foreach as the default and its bits, CUDA graphs, memory."""

import pytest
import torch
from torch.nn import Parameter

from lion import Lion, measure_step

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


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("momentum_dtype", [None, torch.bfloat16])
def test_gpu_weights_are_the_cpus(foreach: bool, momentum_dtype: torch.dtype | None) -> None:
    gpu, cpu = make_params("cuda"), make_params("cpu")
    for params in (gpu, cpu):
        run(Lion(params, lr=0.01, weight_decay=0.1, momentum_dtype=momentum_dtype, foreach=foreach), params, steps=20)
    for gpu_param, cpu_param in zip(gpu, cpu, strict=True):
        torch.testing.assert_close(gpu_param.cpu(), cpu_param, rtol=1e-6, atol=1e-6)


def test_group_may_span_gpu_and_cpu() -> None:
    params = make_params("cuda") + make_params("cpu")
    run(Lion(params, lr=0.01, foreach=True), params, steps=2)


def test_fused_on_a_gpu_is_foreach() -> None:
    fused, foreach = make_params("cuda"), make_params("cuda")
    optimizer = Lion(fused, lr=0.01, weight_decay=0.1, fused=True)
    run(optimizer, fused, steps=3)
    run(Lion(foreach, lr=0.01, weight_decay=0.1, foreach=True), foreach, steps=3)
    assert not optimizer._step_supports_amp_scaling  # so that GradScaler does what the kernel would
    for ours, theirs in zip(fused, foreach, strict=True):
        assert torch.equal(ours, theirs)


def test_replayed_cuda_graph_follows_a_changing_lr() -> None:
    lr = torch.tensor(0.01, device="cuda")
    captured, eager = make_params("cuda"), make_params("cuda")
    optimizer = Lion(captured, lr=lr, weight_decay=0.1, capturable=True)
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


def test_foreach_holds_two_copies_of_the_parameters_at_most() -> None:
    params = [Parameter(torch.zeros(1 << 20, device="cuda")) for _ in range(16)]  # 64 MiB
    optimizer = Lion(params, weight_decay=0.1, foreach=True)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    torch.cuda.reset_peak_memory_stats()
    before_bytes = torch.cuda.memory_allocated()
    optimizer.step()
    assert torch.cuda.max_memory_allocated() - before_bytes <= 2 * 64 * 2**20 + 2**20


def test_measure_step_synchronizes_once() -> None:
    params = make_params("cuda")
    optimizer = Lion(params)
    run(optimizer, params, steps=1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as caught:
            measure_step(optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(caught) == 1
