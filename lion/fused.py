"""The fused back end: which tensors go to the kernel of `fused_cpu` or `fused_cuda`, and which to the operators.

A float32 parameter costs 20 bytes of traffic (read p, g, m; write p, m), where the loop of PyTorch's operators passes
over it again and again.
"""

import logging
import subprocess
import time
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lion.arithmetic import LOW_PRECISION
from lion.plain import _multi_tensor_lion, _single_tensor_lion
from lion.state import momentum_dtype

log = logging.getLogger(__name__)

FUSED_DTYPES = (torch.float32, torch.bfloat16)


def takes_fused(fused: bool | None, params: list[Tensor]) -> bool:
    """Whether a step over these parameters goes to `_fused_lion`."""
    return bool(fused) and all(param.is_cpu or param.is_cuda for param in params)


def compile_kernels(group: dict[str, Any]) -> None:
    """Compile what steps over a parameter group need, so that the first one takes no longer than the others."""
    for param in group["params"]:
        dtypes = [param.dtype, param.dtype, momentum_dtype(param, group["momentum_dtype"])]
        if group["kahan_sum"] and param.dtype in LOW_PRECISION:
            dtypes.append(param.dtype)
        _kernel(param.device, *dtypes)


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
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    fusible: dict[tuple[Any, ...], tuple[ModuleType, list[list[Tensor]]]] = {}
    others = []
    compiling = torch.compiler.is_compiling()  # by Inductor, which fuses the operators by itself
    for tensors in zip(params, grads, exp_avgs, compensations, strict=True):
        operands = [tensor for tensor in tensors if tensor is not None]
        kind = (operands[0].device, *[tensor.dtype for tensor in operands])
        kernel = None if compiling else _kernel(*kind)
        if kernel and _are_fusible(operands, kernel.ALIGNMENT_BYTES):
            fusible.setdefault(kind, (kernel, []))[1].append(operands)
        else:
            others.append(tensors)

    for kernel, rows in fusible.values():
        kernel.step(
            rows,
            lr=lr,
            decay=1 - lr * weight_decay,
            beta1=beta1,
            beta2=beta2,
            sign=-1 if maximize else 1,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )
        torch.autograd.graph.increment_version(tensor for param, _, *state in rows for tensor in (param, *state))

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


def _are_fusible(operands: list[Tensor], alignment_bytes: int) -> bool:
    """Plain tensors that fill their part of the memory, with their entries in the same order."""
    param = operands[0]
    stride = param.stride()
    return all(
        type(tensor) in (Tensor, Parameter)
        and tensor.stride() == stride
        and not tensor.is_neg()
        and tensor.data_ptr() % alignment_bytes == 0
        for tensor in operands
    ) and (param.is_contiguous() or param.is_contiguous(memory_format=torch.channels_last))


@cache
def _kernel(device: torch.device, *dtypes: torch.dtype) -> ModuleType | None:
    """The module that steps over operands of these dtypes; None where there is none, or, saying so, no compiler."""
    param, grad, _, *compensation = dtypes
    if not {*dtypes} <= {*FUSED_DTYPES} or param != grad or (compensation and compensation != [torch.bfloat16]):
        return None
    start = time.perf_counter()
    try:
        kernel = import_module(f"lion.fused_{device.type}")
        example = [torch.zeros(1, dtype=dtype, device=device) for dtype in dtypes]
        kernel.step([example], lr=0.0, decay=1.0, beta1=0.0, beta2=0.0, sign=1)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"Lion(fused=True) cannot compile its kernel here and steps by PyTorch's operators: {reason}", stacklevel=2
        )
        return None
    log.info("Lion's fused kernel on %s was ready after %.1f s", device, time.perf_counter() - start)
    return kernel
