"""Running statistics of batch norm that belong to averaged weights.

What batch norm has tracked during training are the means and variances of the weights of the last steps. Averaged
weights have others, and an average of tracked statistics is not theirs either: it remembers their start (0 and 1) as
long as the weights' average remembers its own. So they are estimated anew from training batches, as Izmailov et al. do
("Averaging weights leads to wider optima and better generalization", 2018, section 3.2).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

STATISTICS_SAMPLES = 1024
"""Training samples that statistics are estimated from, in micro-batches; Wu and Johnson ("Rethinking 'Batch' in
BatchNorm", 2021, section 3) find that 10^3 to 10^4 are enough."""


def tracked_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose running statistics training moves: none of a locked part that stays in evaluation."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None
    ]


@contextmanager
def estimating_statistics(model: nn.Module, layers: list[str]) -> Iterator[None]:
    """The running statistics of ``layers`` become the mean over the batches that ``model`` sees meanwhile; all else is
    in evaluation mode, so that dropout does not widen them.
    """
    training = model.training
    model.eval()
    norms = [module for name, module in model.named_modules() if name in layers and isinstance(module, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = dict.fromkeys(norms, 0)

    def count(norm: _NormBase, _: Any) -> None:
        seen[norm] += 1
        norm.momentum = 1 / seen[norm]  # which makes a plain mean of a moving one

    hooks = [norm.register_forward_pre_hook(count) for norm in norms]
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, hook, momentum in zip(norms, hooks, momenta, strict=True):
            hook.remove()
            norm.momentum = momentum
        model.train(training)


def has_modes(optimizer: Optimizer) -> bool:
    """Whether it keeps the weights in one form for training and in another for evaluation, as schedule-free ones do,
    and has ``train()`` and ``eval()`` to change between them.
    """
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@contextmanager
def evaluation_mode(optimizer: Optimizer) -> Iterator[list[torch.Tensor]]:
    """The weights as the optimizer would have them evaluated, for as long as this lasts; yields those that it trains.

    They are afterwards what they were to the last bit, which ``train()`` alone does not promise: how often a run is
    saved must not change it. Nothing happens for an optimizer without modes.
    """
    if not has_modes(optimizer):
        yield []
        return
    trained = [weight.detach().clone() for weight in _weights(optimizer)]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield trained
    finally:
        enter_training(optimizer, trained)


def enter_training(optimizer: Optimizer, trained: list[torch.Tensor]) -> None:
    """Training mode, with exactly these weights if there are any."""
    if has_modes(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for weight, value in zip(_weights(optimizer), trained, strict=bool(trained)):
                weight.copy_(value)


def _weights(optimizer: Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def evaluated_weights(saved: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Of a checkpoint, the weights and buffers that the run evaluated: the averaged ones if it has any."""
    if not saved["ema"]:
        return dict(saved["model"])
    return {name.removeprefix("module."): value for name, value in saved["ema"].items() if name.startswith("module.")}
