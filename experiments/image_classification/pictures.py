"""Labelled images by index, in memory or as files: the splits of a data set, and the batches of an evaluation.

fit     the images that training batches are drawn from
train   the first ``flatness.samples`` of these, for evaluation
val     ``data.val_size`` images of the training split that are not trained on: a random choice, the same everywhere
        unless ``data.split_seed`` redraws it
test, and optionally v2
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.data.labels import check_order
from experiments.data.stored import StoredSplit
from experiments.harness.batches import ShieldedLoader
from experiments.harness.errors import ConfigError
from experiments.harness.seeds import derive_seed
from experiments.image_classification.config import ImageClassificationConfig
from experiments.image_classification.stored_sets import StoredSet

MODES = {1: "L", 3: "RGB"}
"""Pillow's modes by ``data.channels``, to which stored images are converted."""
EVALUATION_BATCH_SIZE = 500
"""Images per forward pass in an evaluation; the metrics do not depend on it."""


class Images(Protocol):
    """Some rows of a labelled set, in a fixed order."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [images]."""

    @property
    def damaged(self) -> int:
        """How many images this process has so far been unable to decode completely."""

    def image(self, index: int) -> Any:
        """The image at ``index`` as input for torchvision's transforms: PIL, or uint8 ``[C, H, W]``."""


@dataclass(frozen=True)
class Numbered:
    """Images without their labels, as experiments/data/copies.py needs them."""

    images: Images

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, number: int) -> Any:
        return self.images.image(number)


@dataclass(frozen=True)
class ArrayImages:
    """The rows ``rows`` of decoded images, uint8 ``[images, H, W, C]``, memory-mapped read-only."""

    images: np.ndarray
    labels: np.ndarray
    """of these rows"""
    rows: np.ndarray
    damaged: int = 0

    def image(self, index: int) -> Tensor:
        """The image at ``index``, uint8 ``[C, H, W]``."""
        return torch.tensor(self.images[self.rows[index]]).movedim(-1, -3)  # copies, since the arrays are read-only


class StoredImages:
    """The rows ``rows`` of a stored split, in Pillow's ``mode`` RGB or L."""

    def __init__(self, split: StoredSplit, rows: np.ndarray, mode: str) -> None:
        self._split, self._rows, self._mode = split, rows, mode
        self.labels = split.labels[rows]

    @property
    def damaged(self) -> int:
        """How many images of the split this process has so far been unable to decode completely."""
        return self._split.damaged

    def image(self, index: int) -> Any:
        """The image at ``index``, PIL."""
        image = self._split.image(self._rows[index])
        return image if image.mode == self._mode else image.convert(self._mode)


def array_splits(cfg: ImageClassificationConfig, arrays: dict[str, np.ndarray], seed: int | None) -> dict[str, Images]:
    """The splits of a decoded set. Without a ``seed``, ``val`` is the last training images, which are a random sample
    because the arrays are sorted by a hash of their content.
    """
    images, labels = arrays["train_images"], arrays["train_labels"]
    check_order(labels, cfg.data.name)
    for name in ("train", "test"):
        channels = arrays[f"{name}_images"].shape[3]
        if channels != cfg.data.channels:
            raise ConfigError(
                f"data.channels={cfg.data.channels}, but the {name} images of data={cfg.data.name} have {channels}."
            )
    count = _fit_size(cfg, len(images))
    rows = np.arange(len(images)) if seed is None else _shuffled(len(images), seed)
    parts = {"fit": rows[:count], "train": rows[: cfg.flatness.samples], "val": rows[count:]}
    splits: dict[str, Images] = {name: ArrayImages(images, labels[part], part) for name, part in parts.items()}
    test_labels = arrays["test_labels"]
    return {**splits, "test": ArrayImages(arrays["test_images"], test_labels, np.arange(len(test_labels)))}


def stored_splits(cfg: ImageClassificationConfig, data: StoredSet, seed: int | None) -> dict[str, Images]:
    """The splits of a stored set. Its rows may be sorted by class, so ``val`` is a random choice even without a
    ``seed``.
    """
    if cfg.data.channels not in MODES:
        raise ConfigError(f"data.channels={cfg.data.channels}, but images are read in RGB (3) or greyscale (1).")
    mode = MODES[cfg.data.channels]
    count = _fit_size(cfg, len(data.train))
    rows = _shuffled(len(data.train), seed)
    splits: dict[str, Images] = {
        "fit": StoredImages(data.train, rows[:count], mode),
        "train": StoredImages(data.train, rows[: cfg.flatness.samples], mode),
        "val": StoredImages(data.train, rows[count:], mode),
        "test": StoredImages(data.test, np.arange(len(data.test)), mode),
    }
    if data.v2:
        splits["v2"] = StoredImages(data.v2, np.arange(len(data.v2)), mode)
    return splits


def _shuffled(rows: int, seed: int | None) -> np.ndarray:
    name = ("validation split",) if seed is None else ("validation split", seed)
    return np.random.default_rng(derive_seed(*name)).permutation(rows)


def _fit_size(cfg: ImageClassificationConfig, training_images: int) -> int:
    if not 0 < cfg.data.val_size < training_images:
        raise ConfigError(
            f"data.val_size={cfg.data.val_size} must be above 0 and leave some of the {training_images} training "
            f"images of data={cfg.data.name}."
        )
    return training_images - cfg.data.val_size


class _EvaluationBatches(Dataset[dict[str, Any]]):
    """Batches of transformed images, by the index ``start`` of their first one."""

    def __init__(self, images: Images, transform: Callable[[Any], Tensor]) -> None:
        self._images, self._transform = images, transform

    def __getitem__(self, start: int) -> dict[str, Any]:
        numbers = range(start, min(start + EVALUATION_BATCH_SIZE, len(self._images.labels)))
        before = self._images.damaged
        images = torch.stack([self._transform(self._images.image(number)) for number in numbers])
        return {
            "images": images,
            "labels": torch.tensor(self._images.labels[start : start + EVALUATION_BATCH_SIZE]),
            "numbers": torch.tensor(numbers),
            "damaged": self._images.damaged - before,
        }


def evaluation_batches(
    images: Images, transform: Callable[[Any], Tensor], process: int, num_processes: int, num_workers: int
) -> DataLoader[dict[str, Any]]:
    """This process's share of the images: images uint8 ``[N, C, H, W]``, labels and indices (numbers) int64 ``[N]``,
    and how many were damaged.
    """
    starts = range(process * EVALUATION_BATCH_SIZE, len(images.labels), num_processes * EVALUATION_BATCH_SIZE)
    dataset = _EvaluationBatches(images, transform)
    return ShieldedLoader(dataset, starts, num_workers, pin=False)
