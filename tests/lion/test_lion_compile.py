"""torch.compile: at most two graphs and the same bits while the learning rate changes. CUDA graphs: the refusals."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import Parameter

from lion import Lion
from tests.lion.building import with_gradient


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


@pytest.mark.parametrize(
    ("settings", "steps", "message"),
    [
        ({}, 1, "construct Lion with capturable=True"),
        ({"capturable": True}, 0, "Take one step before the capture"),
        ({"capturable": True, "lr": torch.tensor(0.1)}, 1, "lr as a CPU tensor"),
    ],
)
def test_a_capture_that_would_replay_wrongly_is_refused(
    settings: dict[str, Any], steps: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = Lion([with_gradient(torch.ones(2))], **settings)
    for _ in range(steps):
        optimizer.step()
    with pytest.raises(RuntimeError, match=message):
        capture(optimizer, monkeypatch)


def test_a_capturable_step_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    param = with_gradient(torch.ones(2))
    optimizer = Lion([param], lr=0.25, capturable=True)
    optimizer.step()
    capture(optimizer, monkeypatch)
    assert param.tolist() == [0.5, 0.5]
