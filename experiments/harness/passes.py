"""A task's forward passes without a backward pass, for ``make plan``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Passes:
    """Forward passes that a run makes besides training."""

    name: str
    forward: Callable[[nn.Module, int], Any]
    """runs the given number of samples through a forward pass, on the model's device"""
    count: int | None
    """total samples in a run with ``test``; None for passes made once over the data, whose outputs every run then reads
    from the cache"""
