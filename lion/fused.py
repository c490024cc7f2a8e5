"""The fused back end: which tensors go to the kernel of `fused_cpu` or `fused_cuda`, and which to the operators.

A float32 parameter costs 20 bytes of traffic (read p, g, m; write p, m), where the loop of PyTorch's operators passes
over it again and again.
"""

import logging
import subprocess
import time
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lion.arithmetic import LOW_PRECISION
from lion.plain import _multi_tensor_lion, _single_tensor_lion
from lion.state import momentum_dtype

log = logging.getLogger(__name__)

Row = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""A parameter, its gradient, momentum and compensation."""

KERNELS = {"cpu": "lion.fused_cpu", "cuda": "lion.fused_cuda"}
FUSED_DTYPES = (torch.float32, torch.bfloat16)
PLAIN_TYPES = (Tensor, Parameter)


def takes_fused(
    params: Sequence[Tensor], *, fused: bool | None, foreach: bool | None, differentiable: bool, cautious: bool
) -> bool:
    """Whether a step over these parameters goes to `_fused_lion`: if asked for, and on a CPU if nothing else is."""
    if fused is None:
        other = foreach is not None or differentiable or cautious
        return not other and all(param.is_cpu for param in params)
    return fused and all(param.is_cpu or param.is_cuda for param in params)


def compile_kernels(group: dict[str, Any]) -> None:
    """Compile what steps over a parameter group need, so that the first one takes no longer than the others."""
    for param in group["params"]:
        exp_avg_dtype = momentum_dtype(param, group["momentum_dtype"])
        compensated = group["kahan_sum"] and param.dtype in LOW_PRECISION
        _kernel(bool(group["fused"]), param.device, param.dtype, param.dtype, exp_avg_dtype, compensated)


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
    maximize: bool,
    fused: bool | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in zip(params, grads, exp_avgs, compensations, strict=True):
        param, grad, exp_avg, compensation = row
        kind = (param.device, param.dtype, grad.dtype, exp_avg.dtype, compensation is not None)
        kinds.setdefault(kind, []).append(row)

    others: list[Row] = []
    for kind, rows in kinds.items():
        # In a compiled step Inductor fuses the operators.
        kernel = None if torch.compiler.is_compiling() else _kernel(bool(fused), *kind)
        fusible: list[Row] = []
        for row in rows:
            (fusible if kernel and _are_fusible(row, kernel.ALIGNMENT_BYTES) else others).append(row)
        if not fusible:
            continue
        assert kernel is not None
        *_, compensated = kind
        fused_params, fused_grads, *state = list(zip(*fusible, strict=True))[: 3 + compensated]
        kernel.step(
            fused_params,
            fused_grads,
            *state,
            lr=lr,
            decay=1 - lr * weight_decay,
            beta1=beta1,
            beta2=beta2,
            sign=-1 if maximize else 1,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )
        torch.autograd.graph.increment_version([*fused_params, *chain.from_iterable(state)])

    if not others or (found_inf is not None and found_inf.item()):
        return
    other_params, other_grads, other_exp_avgs, other_compensations = map(list, zip(*others, strict=True))
    if grad_scale is not None:
        other_grads = [grad * grad_scale.double().reciprocal().to(grad) for grad in other_grads]
    plain_lion = _single_tensor_lion if all(param.is_cpu for param in other_params) else _multi_tensor_lion
    plain_lion(
        other_params,
        other_grads,
        other_exp_avgs,
        other_compensations,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        cautious=False,
        maximize=maximize,
    )


def _are_fusible(row: Row, alignment_bytes: int) -> bool:
    """Plain tensors that fill their part of the memory, with their entries in the same order."""
    operands = [tensor for tensor in row if tensor is not None]
    contiguous = True
    for tensor in operands:  # of every parameter at every step: a generator would take as long as all of this
        if type(tensor) not in PLAIN_TYPES or tensor.is_neg() or tensor.data_ptr() % alignment_bytes:
            return False
        contiguous = contiguous and tensor.is_contiguous()
    return contiguous or all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in operands)


@cache
def _kernel(
    asked_for: bool,
    device: torch.device,
    param: torch.dtype,
    grad: torch.dtype,
    exp_avg: torch.dtype,
    compensated: bool,
) -> ModuleType | None:
    """The module that steps over tensors of these dtypes; None where there is none, or no compiler.

    Of a missing compiler it warns if the kernel was asked for.
    """
    if not {param, exp_avg} <= {*FUSED_DTYPES} or param != grad or (compensated and param != torch.bfloat16):
        return None
    start = time.perf_counter()
    dtypes = [param, grad, exp_avg] + compensated * [param]
    one = torch.ones((), device=device)
    try:
        kernel = import_module(KERNELS[device.type])
        for lr in (0.0, one):  # Triton compiles for each kind of argument
            for scaling in ({}, {"found_inf": one}, {"grad_scale": one, "found_inf": one}):
                example = [[torch.zeros(1, dtype=dtype, device=device)] for dtype in dtypes]
                kernel.step(*example, lr=lr, decay=1 - lr, beta1=0.0, beta2=0.0, sign=1, **scaling)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"Lion's fused kernel cannot be compiled here, so it steps by PyTorch's operators: {reason}"
        if asked_for:
            warnings.warn(message, stacklevel=2)
        else:
            log.info(message)
        return None
    log.info("Lion's fused kernel on %s was ready after %.1f s", device, time.perf_counter() - start)
    return kernel
