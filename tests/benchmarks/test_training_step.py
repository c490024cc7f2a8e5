"""The benchmark of the training step: what it times, and that its page says what was measured."""

from contextlib import suppress

import pytest
import torch

from benchmarks import training_loops
from benchmarks.training_loops import Enough, Stopwatch
from benchmarks.training_page import speeds_table, times_table

MS = {"this suite": [10.0, 20.0, 40.0], "bare loop": [9.0, 19.0, 42.0], "timm": [20.0, 30.0, 44.0]}
RESULTS = {"tasks": {"image_classification": {"batch_size": 64, "steps": 40, "ms": MS}}}


def test_step_time_is_the_mean_of_the_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([100.0, 107.0, 109.0, 113.0, 999.0])  # two that warm up, then 2 s and 4 s
    monkeypatch.setattr(training_loops.time, "process_time", lambda: next(ends))
    watch = Stopwatch(torch.device("cpu"), warm_up=2, steps=2)
    taken = 0
    with suppress(Enough):
        while True:
            taken += 1
            watch.tick()
    assert (taken, watch.step_ms) == (4, 3000.0)


def test_tables_show_medians_of_rounds_and_of_their_ratios() -> None:
    times = times_table(RESULTS)
    assert "| 20.0 (10.0 to 40.0) | 19.0 (9.0 to 42.0) | timm: 30.0 (20.0 to 44.0) |" in times
    # 9/10, 19/20, 42/40; 2, 1.5, 1.1
    assert "| 0.95 (0.90 to 1.05) | timm: 1.50 (1.10 to 2.00) |" in speeds_table(RESULTS)
