"""Run an optimizer on given tensors and compare every step with Lion's rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lion.doctor_rule import MISTAKES, step

Make = Callable[..., Optimizer]
"""Constructs the optimizer from parameters and settings."""

SHAPES = ((33, 17), (7,), (), (3, 4, 5, 2), (10_007,), (1,), (0,))
SETTINGS: dict[str, Any] = {"lr": 2**-4, "betas": (0.9, 0.99), "weight_decay": 0.5}


@dataclass
class Problem:
    """Initial weights, gradients for each step (None: no gradient), and the group's settings for each step."""

    starts: list[Tensor]
    gradients: list[list[Tensor | None]]
    settings: list[dict[str, Any]]


def random_problem(
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    steps: int = 12,
    dtype: torch.dtype = torch.float32,
    magnitudes: int = 5,
    **settings: Any,
) -> Problem:
    """Normally distributed weights, and gradients of very different sizes, some of them 0."""
    generator = torch.Generator().manual_seed(0)

    def gradient(shape: tuple[int, ...]) -> Tensor:
        size = 10.0 ** torch.randint(-magnitudes // 2, magnitudes // 2 + 1, shape, generator=generator)
        drawn = torch.randn(shape, generator=generator)
        return (drawn * size * (drawn > -1.5)).to(dtype)

    starts = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    gradients: list[list[Tensor | None]] = [[gradient(shape) for shape in shapes] for _ in range(steps)]
    return Problem(starts, gradients, [SETTINGS | settings] * steps)


def clone(tensor: Tensor) -> Tensor:
    """A detached copy with the same strides."""
    return tensor.detach().clone(memory_format=torch.preserve_format)


class Trial:
    """One optimizer solving one problem."""

    def __init__(self, make: Make, problem: Problem, **options: Any) -> None:
        self.problem = problem
        self.params = [Parameter(clone(start)) for start in problem.starts]
        self.optimizer = make(self.params, **problem.settings[0], **options)
        self.weights = [[clone(param) for param in self.params]]

    def run(self, steps: range | None = None, between: Callable[["Trial", int], None] | None = None) -> "Trial":
        """Take the steps, and record the weights after each."""
        for index in steps or range(len(self.problem.gradients)):
            if between is not None:
                between(self, index)
            for group in self.optimizer.param_groups:
                settings = self.problem.settings[index]
                group.update({name: value for name, value in settings.items() if name in group})
            for param, gradient in zip(self.params, self.problem.gradients[index], strict=True):
                param.grad = None if gradient is None else clone(gradient)
            self.optimizer.step()
            self.weights.append([clone(param) for param in self.params])
        return self


def share_off_the_rule(trial: Trial, mistake: str | None = None, tolerance: float = 1e-5) -> float:
    """Share of all updates (entries times steps) that differ from the rule's, or from those of a known mistake.

    Entries whose sign rounding may flip are not counted. Each step starts from the trial's own weights and from the
    momentum computed from the gradients, so that one wrong step does not count again in the next. The tolerance is
    relative to 1 plus the weight's absolute value.
    """
    off = entries = 0
    momenta = [torch.zeros_like(start, dtype=torch.float64) for start in trial.problem.starts]
    for index, gradients in enumerate(trial.problem.gradients):
        settings = trial.problem.settings[index]
        for place, gradient in enumerate(gradients):
            before, after = trial.weights[index][place].double(), trial.weights[index + 1][place].double()
            if gradient is None:
                off += int((before != after).sum())
                entries += before.numel()
                continue
            expected, momentum, beyond_doubt = step(before, gradient, momenta[place], **settings)
            if mistake is not None:
                (beta1, beta2), lr, decay = settings["betas"], settings["lr"], settings["weight_decay"]
                wrong = MISTAKES[mistake]
                expected, momentum = wrong(before, gradient.double(), momenta[place], lr, beta1, beta2, decay)
            momenta[place] = momentum
            right = (after - expected).abs() <= tolerance * (1 + before.abs())
            off += int((~right & beyond_doubt).sum())
            entries += int(beyond_doubt.sum())
    return off / max(entries, 1)


def same(one: Trial, other: Trial, lr: float = SETTINGS["lr"]) -> bool:
    """Whether two trials end with the same weights, apart from rounding of signs near 0.

    One entry in a thousand may differ (up to 1 in small tensors), and none by more than 50 lr.
    """
    for ours, theirs in zip(one.params, other.params, strict=True):
        difference = (ours.detach().double() - theirs.detach().double()).abs()
        if (difference > 1e-5).double().sum() > 1e-3 * max(difference.numel(), 1000) or (difference > 50 * lr).any():
            return False
    return True
