"""Averaged weights, and the batch norm statistics that fit them.

The statistics that batch norm tracks during training belong to the weights of the last steps. They do not fit averaged
weights. Neither does an average of the tracked statistics, which retains their initial values (0 and 1) for as long as
the averaged weights retain theirs. So they are re-estimated from training batches, as in Izmailov et al.
("Averaging weights leads to wider optima and better generalization", 2018, section 3.2).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

STATISTICS_SAMPLES = 1024
"""Training samples from which statistics are estimated, in micro-batches; Wu and Johnson ("Rethinking 'Batch' in
BatchNorm", 2021, section 3) find that 10^3 to 10^4 are enough."""


def tracked_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose running statistics training updates; none in a locked part, always in eval mode."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None
    ]


@contextmanager
def estimating_statistics(model: nn.Module, layers: list[str]) -> Iterator[None]:
    """Set the running statistics of ``layers`` to the mean over the batches that ``model`` sees inside the context;
    everything else is in eval mode, so that dropout does not inflate them.
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
        norm.momentum = 1 / seen[norm]  # turns the moving average into a plain mean

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
    """Whether ``train()`` and ``eval()`` switch between two sets of weights, as in schedule-free optimizers."""
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@contextmanager
def evaluation_mode(optimizer: Optimizer) -> Iterator[list[torch.Tensor]]:
    """Switch to the weights that the optimizer wants evaluated; yields copies of those it trains.

    Afterwards the weights are restored to the last bit, which ``train()`` alone does not guarantee: how often a run is
    evaluated or saved must not change its result. For an optimizer without modes nothing happens; the list is empty.
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
    """Switch to training mode, with exactly these weights if any are given."""
    if has_modes(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for weight, value in zip(_weights(optimizer), trained, strict=bool(trained)):
                weight.copy_(value)


def _weights(optimizer: Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def evaluated_weights(saved: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights and buffers in a checkpoint that the run evaluated: the averaged ones if there are any."""
    if not saved["ema"]:
        return dict(saved["model"])
    return {name.removeprefix("module."): value for name, value in saved["ema"].items() if name.startswith("module.")}


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module, decay: float) -> None:
    """An exponential moving average of the parameters, and the newest buffers. Gives the same bits as
    ``average.update_parameters``, which waits for the GPU in every step.
    """
    ours: list[torch.Tensor] = list(average.module.parameters())
    theirs: list[torch.Tensor] = list(model.parameters())
    if average.n_averaged:
        torch._foreach_lerp_(ours, theirs, 1 - decay)
    else:
        torch._foreach_copy_(ours, theirs)
    for our_buffer, their_buffer in zip(average.module.buffers(), model.buffers(), strict=True):
        our_buffer.copy_(their_buffer)
    average.n_averaged += 1
