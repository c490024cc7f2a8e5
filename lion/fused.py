"""The fused back end: the plain update, compiled by Inductor into one pass over the memory of a CPU.

A float32 parameter costs 20 bytes of traffic (read p, g, m; write p, m), where the loop of PyTorch's operators passes
over it again and again. One kernel serves tensors of every size, so what is compiled does not depend on the model.
"""

import logging
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lion.arithmetic import LOW_PRECISION
from lion.plain import _single_tensor_lion
from lion.state import momentum_dtype

log = logging.getLogger(__name__)

FUSED_DTYPES = (torch.float32, torch.bfloat16)
SMALLEST_FUSED = 4096
"""Entries: below, a call of the kernel takes longer than the operators that it replaces (2 CPU cores)."""

EXAMPLE_ENTRIES = 2**20
"""Of the tensors that the kernel is compiled with: Inductor shares work between threads only if they are many."""


def takes_fused(fused: bool | None, params: list[Tensor]) -> bool:
    """Whether a step over these parameters goes to `_fused_lion`."""
    return bool(fused) and all(param.is_cpu for param in params)


def _fused_lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    compensations: list[Tensor | None],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    cautious: bool,
    maximize: bool,
) -> None:
    scalars = torch.tensor(
        [-1 if maximize else 1, 1 - lr * weight_decay, -lr, beta1, 1 - beta1, beta2, 1 - beta2], dtype=torch.float32
    )
    others = []
    for tensors in zip(params, grads, exp_avgs, compensations, strict=True):
        operands = [tensor for tensor in tensors if tensor is not None]
        if _are_fusible(operands) and (kernel := _kernel(*(tensor.dtype for tensor in operands))):
            # By .data, because Dynamo would compile anew for views of differently shaped tensors.
            kernel(scalars, *(tensor.as_strided((tensor.numel(),), (1,)).data for tensor in operands))
            torch.autograd.graph.increment_version(operands[:1] + operands[2:])
        else:
            others.append(tensors)
    if others:
        _single_tensor_lion(
            *map(list, zip(*others, strict=True)),
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            cautious=cautious,
            maximize=maximize,
        )


def compile_kernels(group: dict[str, Any]) -> None:
    """Compile what steps over a parameter group need, so that the first one takes no longer than the others."""
    for param in group["params"]:
        dtypes = [param.dtype, param.dtype, momentum_dtype(param, group["momentum_dtype"])]
        if group["kahan_sum"] and param.dtype in LOW_PRECISION:
            dtypes.append(param.dtype)
        if set(dtypes) <= set(FUSED_DTYPES):
            _kernel(*dtypes)


def _are_fusible(operands: list[Tensor]) -> bool:
    """Large plain tensors of dtypes that the kernel has, whose entries lie in memory alike."""
    param, grad = operands[:2]
    return (
        param.numel() >= SMALLEST_FUSED
        and param.dtype == grad.dtype
        and all(type(tensor) in (Tensor, Parameter) and tensor.dtype in FUSED_DTYPES for tensor in operands)
        and all(tensor.stride() == param.stride() for tensor in operands)
        and (param.is_contiguous() or param.is_contiguous(memory_format=torch.channels_last))
    )


@cache
def _kernel(*dtypes: torch.dtype) -> Callable[..., None] | None:
    """`_update`, compiled for operands of these dtypes; None, saying so, where it cannot be compiled."""
    options: dict[str, Any] = {
        # The compensation is what rounding took, so Inductor must round; otherwise it need not, and is faster.
        "emulate_precision_casts": len(dtypes) > 3,
        "cpp.threads": torch.get_num_threads(),  # or a kernel for one thread might come out of Inductor's cache
    }
    kernel = torch.compile(_update, fullgraph=True, dynamic=True, options=options)
    start = time.perf_counter()
    with torch.no_grad():
        try:
            kernel(torch.zeros(7), *(torch.zeros(EXAMPLE_ENTRIES, dtype=dtype) for dtype in dtypes))
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"Lion(fused=True) cannot compile its kernel here and steps by PyTorch's operators: {reason}",
                stacklevel=2,
            )
            return None
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    log.info("Lion's fused kernel for %s was compiled in %.1f s", names, time.perf_counter() - start)
    return kernel


def _update(scalars: Tensor, param: Tensor, grad: Tensor, exp_avg: Tensor, compensation: Tensor | None = None) -> None:
    """Lion's step of one-dimensional tensors, rounded where the operators of `_single_tensor_lion` round."""
    from torch._inductor.inductor_prims import fma

    sign, decay, negative_lr, beta1, one_minus_beta1, beta2, one_minus_beta2 = scalars.unbind()
    p, g, m = param.float(), grad.float() * sign, exp_avg.float()
    if compensation is not None:
        p = p + compensation
    update = m * beta1 + g * one_minus_beta1
    # Faster than by torch.sign. Adding -0.0 changes no number, not even -0.0, which adding 0.0 would.
    p = p * decay + torch.where(update > 0, negative_lr, torch.where(update < 0, -negative_lr, -0.0))
    param.copy_(p)
    if compensation is not None:
        compensation.copy_(p - param)
    # The operator add_(g, alpha) rounds once, which a product and a sum would not.
    exp_avg.copy_(fma(g, one_minus_beta2.expand_as(g), m * beta2))
