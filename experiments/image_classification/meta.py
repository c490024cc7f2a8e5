"""The model of an experiment on the meta device, for experiments/harness/plan.py."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn


def meta_model(cfg: DictConfig) -> nn.Module:
    """The model on the device ``meta``."""
    with torch.device("meta"):
        model: nn.Module = instantiate(cfg.model, _convert_="all")
    return model


def meta_output(model: nn.Module, cfg: DictConfig, samples: int) -> Tensor:
    """The model's logits for this many images."""
    size = cfg.data.image_size
    logits: Tensor = model(torch.empty(samples, cfg.data.channels, size, size, device="meta"))
    return logits


def samples_per_epoch(cfg: DictConfig) -> int | None:
    """The number of training images."""
    images: int | None = cfg.data.train_images
    return images
