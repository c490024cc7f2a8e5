"""The learning rate as a function of the step, for the shapes of the paper's tasks (its section 4)."""

import math

from experiments.harness.config import ScheduleConfig


def lr_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """The learning rate as a fraction of its peak for update number ``step`` (0-based) of ``steps``.

    The warm-up rises linearly from ``init_factor`` and reaches the peak at its last update, so no update has a learning
    rate of zero. ``cosine`` and ``linear`` then fall to ``end_factor``, which the update after the last one would have;
    ``rsqrt`` falls with the inverse square root of the step; ``constant`` stays.
    """
    assert 0 <= step < steps, f"step {step} outside 0..{steps - 1}"
    warmup = schedule.warmup_steps
    if step < warmup:
        return schedule.init_factor + (1 - schedule.init_factor) * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    if schedule.shape == "cosine":
        return schedule.end_factor + (1 - schedule.end_factor) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.shape == "linear":
        return 1 + (schedule.end_factor - 1) * progress
    if schedule.shape == "rsqrt":
        return math.sqrt(max(warmup, 1) / (step + 1))
    assert schedule.shape == "constant", schedule.shape
    return 1.0
