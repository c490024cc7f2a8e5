"""The classifier: a text encoder, whose lower part may be frozen, and a linear layer."""

from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.finetuning.config import TextModelConfig
from experiments.pretrained.weights import Weights, load_weights


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
