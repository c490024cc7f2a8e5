"""Image classification: images in, class logits out, cross-entropy."""

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.harness.errors import ConfigError
from experiments.harness.prepared_data import PreparedData
from experiments.image_classification.config import ImageClassificationConfig
from experiments.metrics.classification import classification_metrics, classification_sums

EVALUATION_BATCH_SIZE = 500
"""Images in one forward pass of an evaluation; the metrics do not depend on it."""


class ImageClassification:
    """A labelled image set in memory and the model that the config names.

    The last ``data.val_size`` training images are the validation split: arrays come in an order given by a hash of
    their content, so that is a random choice, and the same one everywhere.
    """

    def __init__(self, cfg: ImageClassificationConfig, arrays: dict[str, np.ndarray]) -> None:
        self._cfg = cfg
        images = len(arrays["train_images"])
        if not 0 < cfg.data.val_size < images:
            raise ConfigError(
                f"data.val_size={cfg.data.val_size} of {cfg.data.name}'s {images} training images leave none."
            )
        self.num_train = images - cfg.data.val_size
        self._train = arrays["train_images"], arrays["train_labels"]
        self._splits = {
            "val": (arrays["train_images"][self.num_train :], arrays["train_labels"][self.num_train :]),
            "test": (arrays["test_images"], arrays["test_labels"]),
        }
        self._augment = v2.Compose(
            [v2.RandomCrop(cfg.data.image_size, padding=cfg.data.crop_padding)]
            + ([v2.RandomHorizontalFlip()] if cfg.data.flip else [])
        )
        self._normalize = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(cfg.data.mean), list(cfg.data.std))]
        )

    def model(self) -> nn.Module:
        """The model of ``cfg.model``, freshly initialised from PyTorch's global generator."""
        model: nn.Module = instantiate(self._cfg.model, _convert_="all")
        return model

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """Augmented training images float32 ``[N, C, H, W]`` and labels int64 ``[N]``."""
        images, labels = self._train
        augmented = []
        for index, seed in zip(indices, seeds, strict=True):
            # torchvision draws from the CPU's global generator; torch.manual_seed (all devices) is 100 times slower.
            torch.default_generator.manual_seed(seed)
            augmented.append(self._augment(_to_tensor(images[index])))
        return {"images": self._normalize(torch.stack(augmented)), "labels": torch.from_numpy(labels[indices])}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy with the config's label smoothing."""
        return F.cross_entropy(model(batch["images"]), batch["labels"], label_smoothing=self._cfg.label_smoothing)

    def evaluate(self, model: nn.Module, split: str, process: int, num_processes: int) -> dict[str, Tensor]:
        """Sums of loss, top-1, top-5 and count over this process's share of the split."""
        device = next(model.parameters()).device
        images, labels = self._splits[split]
        sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in ("loss", "top1", "top5", "count")}
        for start in range(process * EVALUATION_BATCH_SIZE, len(images), num_processes * EVALUATION_BATCH_SIZE):
            part = slice(start, start + EVALUATION_BATCH_SIZE)
            logits = model(self._normalize(_to_tensor(images[part])).to(device))
            for name, value in classification_sums(logits, torch.tensor(labels[part], device=device)).items():
                sums[name] += value
        return sums

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Loss in nats, top-1 and top-5 in percent."""
        return classification_metrics(sums)


def _to_tensor(images: np.ndarray) -> Tensor:
    """uint8 ``[..., H, W, C]`` to uint8 ``[..., C, H, W]``."""
    return torch.tensor(images).movedim(-1, -3)  # copies: the arrays are mapped read-only


def build(cfg: ImageClassificationConfig, data: PreparedData) -> ImageClassification:
    """The task over the decoded arrays of its data set."""
    return ImageClassification(cfg, data.load())
