"""Which values and combinations of settings Lion accepts."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lion.arithmetic import LOW_PRECISION

MOMENTUM_DTYPES = ("bfloat16", "float16", "float32", "float64")

# Defaults of the settings that other implementations of Lion lack, so that their checkpoints and older ones load.
LATER_SETTINGS = {
    "momentum_dtype": None,
    "kahan_sum": False,
    "cautious": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}


def check_settings(group: dict[str, Any]) -> None:
    """Raise ValueError for a setting out of range, with torch.optim's message where it has the same check."""
    lr, betas, weight_decay = group["lr"], group["betas"], group["weight_decay"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}.")
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"Invalid learning rate: {lr}")
    if len(betas) != 2 or any(isinstance(beta, Tensor) for beta in betas):
        raise ValueError(f"betas must be two floats, got {betas}.")
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if isinstance(weight_decay, Tensor) or not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"Invalid weight_decay value: {weight_decay!r}")
    if _dtype_name(group["momentum_dtype"]) not in (None, *MOMENTUM_DTYPES):
        raise ValueError(f"momentum_dtype must be None or one of {MOMENTUM_DTYPES}, got {group['momentum_dtype']!r}.")
    check_back_end(
        lr, group["foreach"], group["capturable"], group["differentiable"], group["cautious"], group["fused"]
    )


def as_saved(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with betas as a tuple and the momentum's dtype by name.

    Distributed checkpoints reject a dtype, and a config library's list type must not end up in a checkpoint.
    """
    plain = {"betas": tuple(settings["betas"]), "momentum_dtype": _dtype_name(settings["momentum_dtype"])}
    return settings | plain


def _dtype_name(dtype: torch.dtype | str | None) -> str | None:
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype


def check_rows(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    compensations: Sequence[Tensor | None],
) -> None:
    """Raise RuntimeError where shapes or devices differ within a row. The operators accept that for 1-element tensors.

    A kernel would write past the end of the smaller tensor.
    """
    for param, *operands in zip(params, grads, exp_avgs, compensations, strict=True):
        for name, tensor in zip(("gradient", "momentum", "compensation"), operands, strict=True):
            if tensor is not None and (tensor.shape != param.shape or tensor.device != param.device):
                raise RuntimeError(
                    f"A parameter of shape {tuple(param.shape)} on {param.device} has a {name} of shape "
                    f"{tuple(tensor.shape)} on {tensor.device}. If you changed the parameter's shape, delete its state "
                    "(`del optimizer.state[param]`); if you changed its device, move its state too."
                )


def check_back_end(
    lr: float | Tensor,
    foreach: bool | None,
    capturable: bool,
    differentiable: bool,
    cautious: bool,
    fused: bool | None,
) -> None:
    """Raise ValueError if no back end supports this combination."""
    if fused:
        for name, value in (("foreach", foreach), ("differentiable", differentiable), ("cautious", cautious)):
            if value:
                raise ValueError(f"{name}={value} is not supported with fused=True: leave fused at None.")
    if foreach and differentiable:
        raise ValueError("differentiable=True is not supported with foreach=True: leave foreach at None.")
    if foreach and isinstance(lr, Tensor) and not capturable:
        raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")


def warn_of_low_precision(param_groups: list[dict[str, Any]]) -> None:
    """Warn if the last group has the first bfloat16 or float16 parameters without compensation."""
    loses = [
        not group["kahan_sum"] and any(param.dtype in LOW_PRECISION for param in group["params"])
        for group in param_groups
    ]
    if loses[-1] and not any(loses[:-1]):
        warnings.warn(
            "Lion got bfloat16 or float16 parameters. Every step changes a weight by lr, which is rounded away where "
            "lr is less than half a unit in the weight's last place: at lr 1e-4, in every bfloat16 weight above 0.031. "
            "Keep the parameters in float32 and use torch.autocast, or set kahan_sum=True.",
            stacklevel=5,
        )


def check_capture(optimizer: torch.optim.Optimizer) -> None:
    """Raise RuntimeError for a CUDA graph capture whose replays would silently differ from Lion's step."""
    for group in optimizer.param_groups:
        if not group["capturable"]:
            raise RuntimeError("Lion's step is being captured in a CUDA graph: construct Lion with capturable=True.")
        if isinstance(group["lr"], Tensor) and group["lr"].is_cpu:
            raise RuntimeError(
                "Lion's step is being captured in a CUDA graph with lr as a CPU tensor, so every replay would use its "
                "current value. Create lr on the parameters' device."
            )
        if any(param.grad is not None and not optimizer.state.get(param) for param in group["params"]):
            raise RuntimeError(
                "Lion's first step is being captured in a CUDA graph, so every replay would reset the momentum to 0. "
                "Take one step before the capture."
            )
