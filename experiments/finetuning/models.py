"""The models: a classifier on a text encoder, whose lower part may be frozen, or one of language_models.py."""

from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.finetuning.config import FinetuningConfig, TextModelConfig, check_form
from experiments.finetuning.language_models import CausalModel, EncoderDecoder
from experiments.harness.task import Passes
from experiments.pretrained.locked import build_locked
from experiments.pretrained.weights import Weights, load_weights

EVALUATION_BATCH_SIZE = 64


class Classifier(nn.Module):
    """Class logits of texts."""

    def __init__(self, encoder: nn.Module, features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder, self.dropout, self.head = encoder, nn.Dropout(dropout), nn.Linear(features, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[N, num_classes]`` from the encoder's inputs: tokens ``[N, T]``, or the frozen part's outputs."""
        logits: Tensor = self.head(self.dropout(self.encoder(inputs)))
        return logits


def build_classifier(cfg: TextModelConfig, num_classes: int, weights: Weights) -> Classifier:
    """The trained part of the model, initialized from PyTorch's global generator; weights, if any, fill its encoder."""
    encoder: Any = instantiate(cfg.trained, _convert_="all")
    load_weights(encoder, weights)
    assert cfg.features is not None, "a classifier's config has model.features"
    return Classifier(encoder, cfg.features, num_classes, cfg.head_dropout)


def meta_model(cfg: FinetuningConfig) -> nn.Module:
    """The trained model on the device ``meta``."""
    check_form(cfg)
    with torch.device("meta"):
        if not cfg.data.tasks:
            assert cfg.data.num_classes is not None, "labelled texts have data.num_classes"
            return build_classifier(cfg.model, cfg.data.num_classes, {})
        model: nn.Module = instantiate(cfg.model.trained, weights=None)
    return model


def meta_loss(model: nn.Module, cfg: FinetuningConfig, samples: int) -> Tensor:
    """The loss of this many texts of full context length, on the device of ``model``: an upper bound of the cost, not
    its mean.
    """
    with next(model.parameters()).device:
        tokens: Any = torch.ones(samples, cfg.model.context_length, dtype=torch.int64)
        if isinstance(model, EncoderDecoder | CausalModel):
            assert cfg.model.answer_length is not None, "a model that writes answers has model.answer_length"
            answers = torch.ones(samples, cfg.model.answer_length, dtype=torch.int64)
            nats: Tensor = model(tokens, answers)
            return nats.mean()
        inputs = tokens
        if cfg.model.locked:  # its outputs are computed only once: see besides_training
            assert cfg.model.features is not None, "a classifier's config has model.features"
            inputs = torch.empty(*tokens.shape, cfg.model.features)
        return F.cross_entropy(model(inputs), torch.zeros(samples, dtype=torch.int64))


def meta_evaluation(model: nn.Module, cfg: FinetuningConfig) -> Tensor:
    """The loss of a batch of an evaluation."""
    return meta_loss(model, cfg, EVALUATION_BATCH_SIZE)


def besides_training(cfg: FinetuningConfig) -> list[Passes]:
    """The frozen part's outputs. The answers that GLUE's models write are left out: writing one takes about as much
    as its loss, and with T5 base 160 000 are written in a run that trains on 64 million rows, forwards and backwards.
    """
    if not cfg.model.locked:
        return []

    def outputs(model: nn.Module, samples: int) -> Tensor:
        with next(model.parameters()).device:
            tokens = torch.ones(samples, cfg.model.context_length, dtype=torch.int64)
            hidden: Tensor = build_locked(cfg.model.locked, {})(tokens)
        return hidden

    return [Passes("the frozen layers' outputs", outputs, None)]
