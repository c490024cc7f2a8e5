"""The fused back end: the plain update, compiled by Inductor into one pass over the memory of a CPU.

A float32 parameter costs 20 bytes of traffic (read p, g, m; write p, m), where the loop of PyTorch's operators passes
over it again and again. One kernel serves tensors of every size, so what is compiled does not depend on the model.
"""

import logging
import time
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import Parameter

from lion.plain import _single_tensor_lion

log = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], None]

FUSED_DTYPES = (torch.float32, torch.bfloat16)
SMALLEST_FUSED = 4096
"""Entries: below, a call of the kernel takes longer than the operators that it replaces (2 CPU cores)."""


def takes_fused(fused: bool | None, params: list[Tensor]) -> bool:
    """Whether a step over these parameters goes to `_fused_lion`."""
    return bool(fused) and all(param.is_cpu for param in params)


def _fused_lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
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
    others: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for tensors in zip(params, grads, exp_avgs, strict=True):
        if _is_fusible(*tensors) and (kernel := _kernel(tensors[0].dtype, tensors[2].dtype)):
            # By .data, because Dynamo would compile anew for views of differently shaped tensors.
            param, grad, exp_avg = (tensor.as_strided((tensor.numel(),), (1,)).data for tensor in tensors)
            kernel(param, grad, exp_avg, scalars)
            torch.autograd.graph.increment_version((tensors[0], tensors[2]))
        else:
            for column, tensor in zip(others, tensors, strict=True):
                column.append(tensor)
    _single_tensor_lion(
        *others, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay, cautious=cautious, maximize=maximize
    )


def compile_kernels(params: list[Tensor], exp_avg_dtypes: list[torch.dtype]) -> None:
    """Compile what steps over these parameters need, so that the first one takes no longer than the others."""
    for param, dtype in zip(params, exp_avg_dtypes, strict=True):
        if param.dtype in FUSED_DTYPES and dtype in FUSED_DTYPES:
            _kernel(param.dtype, dtype)


def _is_fusible(param: Tensor, grad: Tensor, exp_avg: Tensor) -> bool:
    """Large plain tensors of dtypes that the kernel has, whose entries lie in memory alike."""
    return (
        param.numel() >= SMALLEST_FUSED
        and all(type(tensor) in (Tensor, Parameter) for tensor in (param, grad, exp_avg))
        and param.dtype == grad.dtype
        and param.dtype in FUSED_DTYPES
        and exp_avg.dtype in FUSED_DTYPES
        and param.stride() == grad.stride() == exp_avg.stride()
        and (param.is_contiguous() or param.is_contiguous(memory_format=torch.channels_last))
    )


@cache
def _kernel(param_dtype: torch.dtype, exp_avg_dtype: torch.dtype) -> Kernel | None:
    """The compiled update of tensors of more than one entry; None, saying so, where it cannot be compiled."""
    kernel: Kernel = torch.compile(_update, fullgraph=True, dynamic=True)
    start = time.perf_counter()
    with torch.no_grad():
        try:
            kernel(
                torch.zeros(2, dtype=param_dtype),
                torch.zeros(2, dtype=param_dtype),
                torch.zeros(2, dtype=exp_avg_dtype),
                torch.zeros(7),
            )
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"Lion(fused=True) cannot compile its kernel here and steps by PyTorch's operators: {reason}",
                stacklevel=2,
            )
            return None
    log.info("Lion's fused kernel for %s, %s: %.1f s", param_dtype, exp_avg_dtype, time.perf_counter() - start)
    return kernel


def _update(param: Tensor, grad: Tensor, exp_avg: Tensor, scalars: Tensor) -> None:
    """Lion's step of one-dimensional tensors, rounded where the operators of `_single_tensor_lion` round."""
    from torch._inductor.inductor_prims import fma

    sign, decay, negative_lr, beta1, one_minus_beta1, beta2, one_minus_beta2 = scalars.unbind()
    p, g, m = param.float(), grad.float() * sign, exp_avg.float()
    update = torch.sign(m * beta1 + g * one_minus_beta1)
    param.copy_(p * decay + update * negative_lr)
    # The operator add_(g, alpha) rounds once, which a product and a sum would not.
    exp_avg.copy_(fma(g, one_minus_beta2.expand_as(g), m * beta2))
