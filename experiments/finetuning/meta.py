"""The model of an experiment on the meta device, for experiments/harness/plan.py."""

from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.finetuning.classifier import build_classifier
from experiments.finetuning.config import FinetuningConfig, check_form
from experiments.finetuning.language_models import CausalModel, EncoderDecoder
from experiments.pretrained.locked import build_locked


def meta_model(cfg: DictConfig) -> nn.Module:
    """The trained model on the device ``meta``."""
    check_form(cast(FinetuningConfig, cfg))
    with torch.device("meta"):
        if not cfg.data.tasks:
            return build_classifier(cfg.model, cfg.data.num_classes, {})
        model: nn.Module = instantiate(cfg.model.trained, weights=None)
    return model


def meta_output(model: nn.Module, cfg: DictConfig, samples: int) -> Tensor:
    """The model's logits for this many texts of full context length: an upper bound of the cost, not its mean."""
    with torch.device("meta"):
        tokens: Any = torch.ones(samples, cfg.model.context_length, dtype=torch.int64)
        if not isinstance(model, EncoderDecoder | CausalModel):
            with torch.no_grad():
                inputs = build_locked(cfg.model.locked, {})(tokens) if cfg.model.locked else tokens
            output: Tensor = model(inputs)
            return output
        answers = torch.ones(samples, cfg.model.answer_length, dtype=torch.int64)
        # Without a mask, or with a complete one: building one reads values, which the meta device does not have.
        if isinstance(model, EncoderDecoder):
            output = model.network(input_ids=tokens, decoder_input_ids=answers, use_cache=False).logits
        else:
            both = torch.cat([tokens, answers], 1)
            mask = torch.ones(samples, 1, both.shape[1], both.shape[1], dtype=torch.bool)
            output = model.network(input_ids=both, attention_mask=mask, use_cache=False).logits
        return output


def samples_per_epoch(cfg: DictConfig) -> None:
    """None: the number of texts is known only once the data are opened."""
