"""The parameter shapes of the models with which optimizers are timed."""

from collections.abc import Callable

import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from experiments.harness.source_code import ROOT


def _language_model(name: str) -> nn.Module:
    model: nn.Module = instantiate(
        OmegaConf.load(ROOT / f"conf/model/{name}.yaml"), vocab_size=32_000, context_length=1024
    )
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": lambda: timm.create_model("resnet50"),
    "ViT-B/16": lambda: timm.create_model("vit_base_patch16_224"),
    "LM 110 M": lambda: _language_model("lm_small"),
    "LM 336 M": lambda: _language_model("lm_medium"),
    "LM 731 M": lambda: _language_model("lm_large"),
}


def parameter_shapes(model: str) -> list[torch.Size]:
    """The shape of every parameter of one of MODELS, in the model's order."""
    with torch.device("meta"):
        return [parameter.shape for parameter in MODELS[model]().parameters()]
