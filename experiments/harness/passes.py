"""What a task tells ``make plan`` about its forward passes without a backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Passes:
    """Forward passes that a run makes besides training."""

    name: str
    forward: Callable[[nn.Module, int], Any]
    """makes a pass of so many samples, with the model and on its device"""
    count: int | None
    """samples in all the passes of a run that is tested; None for passes over the data that are made once, and whose
    outputs every run then reads from the cache"""
