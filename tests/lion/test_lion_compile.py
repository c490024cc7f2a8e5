"""torch.compile: at most two graphs and the same bits while the learning rate changes. CUDA graphs: the refusals."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import Parameter

from lion import Lion


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"foreach": True, "capturable": True},
        {"cautious": True, "maximize": True},
        {"momentum_dtype": torch.bfloat16},
    ],
)
def test_a_changing_tensor_lr_compiles_to_at_most_two_graphs(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    starts = [torch.randn(4, 3), torch.randn(5), torch.randn(2, dtype=torch.float64)]
    compiled_params, eager_params = ([Parameter(start.clone()) for start in starts] for _ in range(2))
    compiled, eager = (
        Lion(params, lr=torch.tensor(0.1), weight_decay=0.1, **settings) for params in (compiled_params, eager_params)
    )
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in (compiled, eager)]
    counter = CompileCounter()
    compiled_step = torch.compile(compiled.step, backend=counter)

    for _ in range(6):
        for compiled_param, eager_param in zip(compiled_params, eager_params, strict=True):
            compiled_param.grad = torch.randn_like(compiled_param)
            eager_param.grad = compiled_param.grad.clone()
        compiled_step()
        eager.step()
        for schedule in schedules:
            schedule.step()

    assert 1 <= counter.frame_count <= 2
    for compiled_param, eager_param in zip(compiled_params, eager_params, strict=True):
        torch.testing.assert_close(compiled_param, eager_param, rtol=0, atol=0)


def capture(optimizer: Lion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step as if a CUDA graph were being captured."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    optimizer.step()


def one_param() -> Parameter:
    param = Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    return param


def test_capture_without_capturable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = Lion([one_param()])
    optimizer.step()
    with pytest.raises(RuntimeError, match="construct Lion with capturable=True"):
        capture(optimizer, monkeypatch)


def test_capture_of_the_first_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="Take one step before the capture"):
        capture(Lion([one_param()], capturable=True), monkeypatch)


def test_capture_with_a_cpu_tensor_lr_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = Lion([one_param()], lr=torch.tensor(0.1), capturable=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="lr as a CPU tensor"):
        capture(optimizer, monkeypatch)


def test_a_capturable_step_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    param = one_param()
    optimizer = Lion([param], lr=0.25, capturable=True)
    optimizer.step()
    capture(optimizer, monkeypatch)
    assert param.tolist() == [0.5, 0.5]
