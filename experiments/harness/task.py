"""What the training loop asks of a task. A task package offers ``build(cfg, data) -> Task`` in its module ``task``."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Task(Protocol):
    """One task: its model, its batches, its loss and its evaluation."""

    num_train: int
    """training samples in an epoch"""
    frozen_outputs: dict[str, str]
    """fingerprints of what frozen networks gave that train or judge the model, by their folder in the cache; complete
    once the task has evaluated all its splits
    """

    def model(self) -> nn.Module:
        """A freshly initialised model, drawn from PyTorch's global generator."""

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Any]:
        """The training samples ``indices``; sample ``i`` draws its augmentation from ``seeds[i]`` alone."""

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Mean loss of the batch, a scalar."""

    def evaluate(self, model: nn.Module, split: str, process: int, num_processes: int) -> dict[str, Tensor]:
        """Sums over this process's share of ``split``, among them ``count``; they add up over processes, so no metric
        depends on how the split was cut into batches. A sum is a scalar or a vector. ``split`` is "val", "test" or,
        where ``train.sample_every`` is set, "samples" or, where ``flatness.draws`` is above 0, "train":
        ``flatness.samples`` training samples without augmentation, the same for every seed.
        """

    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """Metrics by name ("loss", "top1", ...) from the sums over the whole split."""

    def example_losses(self, sums: dict[str, Any]) -> tuple[str, np.ndarray]:
        """The name of a metric, and what each example of the test gave for it, float64 ``[examples]``: their plain mean
        is the metric. ``sums`` are those over the whole test split.
        """

    def write_samples(self, directory: Path, step: int) -> None:
        """Put some of what the latest evaluation of "samples" generated into the run's directory; asked of the main
        process, where ``train.sample_every`` is set.
        """
