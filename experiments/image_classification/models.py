"""The model that the config names, and its initial weights."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from experiments.harness.averages import evaluated_weights
from experiments.harness.checkpoint import load_checkpoint
from experiments.harness.errors import RunError
from experiments.harness.optimizer import mark_pretrained
from experiments.image_classification.config import ImageClassificationConfig

EVALUATION_BATCH_SIZE = 500
"""Images read and counted at once in an evaluation; the metrics do not depend on it."""
IMAGES_IN_CACHE = 64
"""Of these, in one forward pass on a CPU"""


def meta_model(cfg: ImageClassificationConfig) -> nn.Module:
    """The model on the device ``meta``."""
    with torch.device("meta"):
        model: nn.Module = instantiate(cfg.model, _convert_="all")
    return model


def meta_output(model: nn.Module, cfg: ImageClassificationConfig, samples: int) -> Tensor:
    """The model's logits for this many images, on its device."""
    size, device = cfg.data.image_size, next(model.parameters()).device
    logits: Tensor = model(torch.empty(samples, cfg.data.channels, size, size, device=device))
    return logits


def meta_loss(model: nn.Module, cfg: ImageClassificationConfig, samples: int) -> Tensor:
    """The loss of this many images, with class weights as labels, as under mixup."""
    logits = meta_output(model, cfg, samples)
    loss = F.cross_entropy if cfg.loss == "softmax" else F.binary_cross_entropy_with_logits
    return loss(logits, torch.empty_like(logits))


def meta_evaluation(model: nn.Module, cfg: ImageClassificationConfig) -> Tensor:
    """The model's logits for a batch of an evaluation."""
    return meta_output(model, cfg, EVALUATION_BATCH_SIZE)


def samples_per_epoch(cfg: ImageClassificationConfig) -> int | None:
    """The number of training images."""
    images: int | None = cfg.data.train_images
    return images


def load_initial_weights(model: Any, run_directory: Path) -> None:
    """Load the last checkpoint of a complete run into ``model``, a timm vision transformer: the averaged weights if the
    run has them, with position embeddings resampled to the model's resolution. The head keeps its own initialization.

    Raises RunError if the run's last checkpoint is missing or damaged, or belongs to a different model.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    saved = load_checkpoint(run_directory)
    if saved is None or saved["step"] != OmegaConf.load(run_directory / "config.yaml").train.steps:
        raise RunError(
            f"The last checkpoint of {run_directory}, from which training should start, is missing or damaged: rerun "
            "the command that made the run to repair it."
        )
    kept = {name: value for name, value in evaluated_weights(saved).items() if not name.startswith("head.")}
    try:
        mismatch = model.load_state_dict(checkpoint_filter_fn(kept, model), strict=False)
        missing = [name for name in mismatch.missing_keys if not name.startswith("head.")]
        fault = (
            f"it lacks {missing} and has the unexpected {mismatch.unexpected_keys}"
            if missing or mismatch.unexpected_keys
            else ""
        )
    except RuntimeError as error:  # tensors with other shapes
        fault = str(error)
    if fault:
        raise RunError(f"The run {run_directory}, from which training should start, has a different model: {fault}.")
    for name, part in model.named_children():
        if name != "head":
            mark_pretrained(part)
