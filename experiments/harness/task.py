"""The interface of a task, which its module ``task`` provides as ``build(cfg, data) -> Task``, and what tasks share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

Sums = Callable[[nn.Module, int, int], dict[str, Tensor]]
"""(model in eval mode, process, number of processes) to sums over this process's share of the samples, each a scalar or
a vector. They are added up over processes, so that no metric depends on how a split is divided into batches."""
Metrics = Callable[[dict[str, Any]], dict[str, float]]
"""Sums over all processes, a float or a list each, to metrics by name ("loss", "top1", ...)"""


@dataclass(frozen=True)
class Evaluator:
    """Something that is measured on the model while it is trained, or once it is."""

    when: Literal["evaluate", "sample", "end"]
    """every ``train.evaluate_every`` steps, every ``train.sample_every`` steps, or after the last one; the latter two
    only with ``test``"""
    sums: Sums
    metrics: Metrics
    example_losses: Callable[[dict[str, Any]], tuple[str, np.ndarray]] | None = None
    """From the same sums as the metrics, the name of one of them and its value for each test example, float64
    ``[examples]``, whose plain mean it is."""
    write_files: Callable[[Path, int], None] | None = None
    """Writes files about the evaluation after this step into the run's directory; called in the main process."""


class Task(Protocol):
    """One task: its model, its batches, its loss and its evaluators."""

    num_train: int
    """training samples in an epoch"""
    frozen_outputs: dict[str, str]
    """fingerprints of the outputs of frozen networks that are used to train or evaluate the model, by their folder in
    the cache; complete once every evaluator has run
    """
    evaluators: dict[str, Evaluator]
    """by split, the first part of their metrics' recorded names (``test/top1``). There must be "val" and "test", which
    decide; "flatness" comes from flatness.py"""

    def model(self) -> nn.Module:
        """A newly initialized model, using PyTorch's global generator."""

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Any]:
        """The training samples ``indices``; sample ``i`` draws its augmentation from ``seeds[i]`` alone."""

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Mean loss of the batch, a scalar."""


@dataclass(frozen=True)
class Passes:
    """Forward passes that a run makes besides training, for ``make plan``."""

    name: str
    forward: Callable[[nn.Module, int], Any]
    """runs the given number of samples through a forward pass, on the model's device"""
    count: int | None
    """total samples in a run with ``test``; None for passes made once over the data, whose outputs every run then reads
    from the cache"""


def in_parts(forward: Callable[..., Tensor], most: int, *inputs: Tensor) -> Tensor:
    """``forward(*inputs)``, whose first dimension indexes samples. On a CPU at most ``most`` samples are processed at a
    time, so that activations stay in its caches, which saves memory and two fifths of the time. The parts have nearly
    equal sizes, because for very few samples PyTorch uses kernels that round differently.
    """
    if inputs[0].device.type != "cpu":
        return forward(*inputs)
    parts = -(-len(inputs[0]) // most)
    return torch.cat([forward(*part) for part in zip(*(each.tensor_split(parts) for each in inputs), strict=True)])
