"""The interface of a task. A task package provides ``build(cfg, data) -> Task`` in its module ``task``."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Task(Protocol):
    """One task: its model, its batches, its loss and its evaluation."""

    num_train: int
    """training samples in an epoch"""
    frozen_outputs: dict[str, str]
    """fingerprints of the outputs of frozen networks that are used to train or evaluate the model, by their folder in
    the cache; complete once the task has evaluated all its splits
    """

    def model(self) -> nn.Module:
        """A newly initialized model, using PyTorch's global generator."""

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Any]:
        """The training samples ``indices``; sample ``i`` draws its augmentation from ``seeds[i]`` alone."""

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Mean loss of the batch, a scalar."""

    def evaluate(self, model: nn.Module, split: str, process: int, num_processes: int) -> dict[str, Tensor]:
        """Sums over this process's share of ``split``, including ``count``. They are added up over processes, so no
        metric depends on how the split is divided into batches. A sum is a scalar or a vector. ``split`` is "val" or
        "test"; if ``train.sample_every`` is set, also "samples"; if ``flatness.draws`` is above 0, also "train", which
        means ``flatness.samples`` training samples without augmentation, the same for every seed.
        """

    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """Metrics by name ("loss", "top1", ...) from the sums over the whole split."""

    def example_losses(self, sums: dict[str, Any]) -> tuple[str, np.ndarray]:
        """The name of a metric and its value for each test example, float64 ``[examples]``, whose plain mean is the
        metric. ``sums`` are those over the whole test split.
        """

    def write_samples(self, directory: Path, step: int) -> None:
        """Write some samples from the latest evaluation of "samples" into the run's directory. Called in the main
        process if ``train.sample_every`` is set.
        """
