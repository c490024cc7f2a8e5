"""Build the optimizer of a run, with the same two parameter groups for every optimizer, and scale initial weights."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.harness.errors import ConfigError
from experiments.harness.explained import explained
from experiments.harness.low_bit import prepare_low_bit
from lion.health import state_tensors

# Names that timm and transformers give to such parameters when they are not in an Embedding module.
EMBEDDING_WORDS = ("embed", "token", "bias", "position")


def decay_groups(model: nn.Module) -> dict[str, list[str]]:
    """Names of the trained parameters that decay (``decay``: matrices and convolution kernels), and of the others
    (``no_decay``: biases, norms, embeddings, position tables and scalars such as a temperature). A tied parameter
    counts as an embedding wherever it appears.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2 or isinstance(module, nn.Embedding) or any(word in name for word in EMBEDDING_WORDS)
    }
    groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["no_decay" if id(parameter) in undecayed else "decay"].append(name)
    return groups


def mark_pretrained(module: nn.Module) -> None:
    """Mark all parameters as pretrained."""
    for parameter in module.parameters():
        parameter.is_pretrained = True  # type: ignore[attr-defined]  # read below, before anything copies the model


def scale_initial_weights(model: nn.Module, scale: float) -> None:
    """Multiply the matrices and kernels that decay by ``scale`` in place, except pretrained ones. A scale of 1 leaves
    every bit unchanged. Raises ConfigError unless it is finite and above 0.
    """
    if not 0 < scale < math.inf:
        raise ConfigError(f"train.init_scale must be above 0, but it is {scale}.")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in decay_groups(model)["decay"]:
            if not getattr(parameters[name], "is_pretrained", False):
                parameters[name].mul_(scale)


def build_optimizer(model: nn.Module, config: Mapping[str, Any]) -> Optimizer:
    """Instantiate ``config._target_`` over the two groups; raises ConfigError for arguments that it does not take."""
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [parameters[name] for name in names], **({"weight_decay": 0.0} if group == "no_decay" else {})}
        for group, names in decay_groups(model).items()
    ]
    arguments = {key: value for key, value in config.items() if key not in ("name", "space")}
    try:
        make = instantiate(arguments, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise ConfigError(f"optimizer={config['name']} cannot be built: {explained(error)}") from error
    _check_step(make.func, config["name"])
    try:
        optimizer: Optimizer = make(groups)
    except Exception as error:
        raise ConfigError(f"optimizer={config['name']} cannot be built from {arguments}: {error}") from error
    _check_step(type(optimizer), config["name"])
    covered = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    if sorted(covered) != sorted(trained):
        raise ConfigError(
            f"optimizer={config['name']} changes its parameter groups: every trained parameter must be in exactly one "
            "group, and no other tensor in any."
        )
    if any(isinstance(group["lr"], Tensor) for group in optimizer.param_groups):
        optimizer.register_step_pre_hook(_rates_as_tensors)
    prepare_low_bit(optimizer, config["name"], make, groups)
    return optimizer


def _check_step(optimizer_class: Any, name: str) -> None:
    """Raise ConfigError if a class of optimizers has a ``step`` that must be given a closure."""
    step = getattr(optimizer_class, "step", None)  # a factory, which is no class, has none
    parameters = inspect.signature(step).parameters if step else {}
    if "closure" in parameters and parameters["closure"].default is inspect.Parameter.empty:
        raise ConfigError(
            f"optimizer={name} cannot be used: the suite calls step() without a closure, which "
            f"{optimizer_class.__name__} requires."
        )


def _rates_as_tensors(optimizer: Optimizer, *_: Any) -> None:
    """Put the training loop's learning rate into a tensor, for which torchao does not compile every value's step."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state; those that share memory, such as bitsandbytes' code books, count
    once. A sharded tensor counts as a whole.
    """
    counted: dict[Any, int] = {}
    for tensor in state_tensors(optimizer):
        if hasattr(tensor, "full_tensor"):  # a DTensor
            counted[id(tensor)] = tensor.nbytes
        else:
            counted[tensor.untyped_storage()._cdata, tensor.storage_offset()] = tensor.nbytes
    return sum(counted.values())
