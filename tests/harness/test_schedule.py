import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from experiments.harness.config import ScheduleConfig
from experiments.harness.schedule import lr_factor


def factors(steps: int, **settings: Any) -> list[float]:
    return [lr_factor(step, steps, ScheduleConfig(**settings)) for step in range(steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"shape": "constant", "warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"shape": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"shape": "linear", "end_factor": 0.5}, [1, 0.875, 0.75, 0.625]),
        ({"shape": "cosine"}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ({"shape": "rsqrt", "warmup_steps": 1}, [1, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5]),
        ({"shape": "constant", "warmup_steps": 2, "init_factor": 0.2}, [0.6, 1, 1, 1]),
    ],
)
def test_learning_rate_factors_match_a_hand_calculation(settings: dict[str, Any], expected: list[float]) -> None:
    assert factors(4, **settings) == pytest.approx(expected, abs=1e-15)


def test_warm_up_and_cosine_match_torchs_schedulers() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    warmup = LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    cosine = CosineAnnealingLR(optimizer, T_max=15)
    scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[5])
    theirs = []
    for _ in range(20):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert factors(20, shape="cosine", warmup_steps=5) == pytest.approx(theirs, rel=1e-12)


def test_the_learning_rate_is_never_zero() -> None:
    for shape in ("constant", "linear", "cosine", "rsqrt"):
        assert min(factors(50, shape=shape, warmup_steps=10)) > 0
