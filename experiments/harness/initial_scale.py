"""How large a model's weights are before the first step."""

import math

import torch
from torch import nn

from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import decay_groups


def mark_pretrained(module: nn.Module) -> None:
    """Say of all parameters that their values come from an earlier training."""
    for parameter in module.parameters():
        parameter.is_pretrained = True  # type: ignore[attr-defined]  # read below, before anything copies the model


def scale_initial_weights(model: nn.Module, scale: float) -> None:
    """Multiply, in place, the matrices and kernels that decay (``decay_groups``) by ``scale``, but no pretrained ones.

    A scale of 1 leaves every bit as it is. Raises ConfigError for one that is not a number above 0.
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
