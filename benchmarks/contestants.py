"""The optimizers that are timed: this suite's Lion, Lions from PyPI that run on the device, and torch's AdamW."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lion_pytorch
import lion_pytorch.foreach
import optimi
import pytorch_optimizer
import timm.optim
import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from lion import Lion

LION_BYTES, BF16_MOMENTUM_BYTES, LION_8BIT_BYTES, ADAMW_BYTES, ADAMW_8BIT_BYTES = 20, 16, 14, 28, 16
"""Bytes that a step has to move per float32 parameter: it reads the gradient and reads and writes weight and state."""


@dataclass(frozen=True)
class Contestant:
    """An optimizer, and the bytes that its step has to move per float32 parameter."""

    build: Callable[[list[Parameter]], Optimizer]
    bytes_per_parameter: int


def _with(make: Any, bytes_per_parameter: int = LION_BYTES, **settings: Any) -> Contestant:
    return Contestant(lambda params: make(params, lr=1e-4, weight_decay=0.1, **settings), bytes_per_parameter)


def contestants(device: torch.device) -> dict[str, Contestant]:
    """Optimizers by their name in the table. This suite's back ends are called Lion."""
    everywhere = {
        "Lion, fused": _with(Lion, fused=True),
        "Lion, fused, bf16 momentum": _with(Lion, BF16_MOMENTUM_BYTES, fused=True, momentum_dtype=torch.bfloat16),
        "Lion, loop": _with(Lion, foreach=False),
        "Lion, foreach": _with(Lion, foreach=True),
        "lion-pytorch": _with(lion_pytorch.Lion),
        "lion-pytorch, foreach": _with(lion_pytorch.foreach.Lion),
        "timm": _with(timm.optim.Lion, foreach=False),
        "timm, foreach": _with(timm.optim.Lion, foreach=True),
        "optimi": _with(optimi.Lion, foreach=False, triton=False),
        "optimi, foreach": _with(optimi.Lion, foreach=True, triton=False),
        "pytorch-optimizer": _with(pytorch_optimizer.Lion, foreach=False),
        "pytorch-optimizer, foreach": _with(pytorch_optimizer.Lion, foreach=True),
        "AdamW, loop": _with(AdamW, ADAMW_BYTES, foreach=False),
        "AdamW, foreach": _with(AdamW, ADAMW_BYTES, foreach=True),
        "AdamW, fused": _with(AdamW, ADAMW_BYTES, fused=True),
    }
    if device.type == "cpu":
        return everywhere
    import bitsandbytes

    return {
        **everywhere,
        "lion-pytorch, Triton": _with(lion_pytorch.Lion, use_triton=True),
        "optimi, Triton": _with(optimi.Lion, triton=True),
        "bitsandbytes": _with(bitsandbytes.optim.Lion),
        "bitsandbytes, 8 bit": _with(bitsandbytes.optim.Lion8bit, LION_8BIT_BYTES),
        "AdamW of bitsandbytes, 8 bit": _with(bitsandbytes.optim.AdamW8bit, ADAMW_8BIT_BYTES),
    }
