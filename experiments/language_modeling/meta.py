"""The model of an experiment on the meta device, for experiments/harness/plan.py."""

from typing import cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.models import build_model


def meta_model(cfg: DictConfig) -> nn.Module:
    """The model on the device ``meta``."""
    with torch.device("meta"):
        return build_model(cast(LanguageModelingConfig, cfg))


def meta_output(model: nn.Module, cfg: DictConfig, samples: int) -> Tensor:
    """The model's logits for this many sequences."""
    logits: Tensor = model(torch.zeros(samples, cfg.context_length, dtype=torch.int64, device="meta")).logits
    return logits


def samples_per_epoch(cfg: DictConfig) -> None:
    """None: the number of sequences is known only once the texts are packed."""
