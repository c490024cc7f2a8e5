"""Parameters with gradients, steps, saved states and numbers of threads, for several tests."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def with_gradient(start: Tensor, gradient: Tensor | complex = 1.0) -> Parameter:
    """A parameter that starts there, with that gradient in every entry."""
    param = Parameter(start)
    param.grad = gradient if isinstance(gradient, Tensor) else torch.full_like(start, gradient)
    return param


def take_steps(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: Iterable[Sequence[Tensor]]) -> None:
    """One step for each list of gradients, which are given as they are."""
    for gradients in steps:
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        optimizer.step()


def through_file(state_dict: dict[str, Any], map_location: str | None = None) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, map_location, weights_only=True)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
