"""Scale a model's initial weights."""

import math

import torch
from torch import nn

from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import decay_groups


def mark_pretrained(module: nn.Module) -> None:
    """Mark all parameters as pretrained."""
    for parameter in module.parameters():
        parameter.is_pretrained = True  # type: ignore[attr-defined]  # read below, before anything copies the model


def scale_initial_weights(model: nn.Module, scale: float) -> None:
    """Multiply the matrices and kernels that decay (``decay_groups``) by ``scale`` in place, except pretrained ones.

    A scale of 1 leaves every bit unchanged. Raises ConfigError unless it is finite and above 0.
    """
    if not 0 < scale < math.inf:
        raise ConfigError(f"train.init_scale must be above 0, but it is {scale}.")
    if scale == 1:
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in decay_groups(model)["decay"]:
            if not getattr(parameters[name], "is_pretrained", False):
                parameters[name].mul_(scale)
