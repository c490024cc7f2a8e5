"""The fused back end: which tensors go to the kernel of `fused_cpu` or `fused_cuda`, and which to the operators.

The kernel moves 20 bytes per float32 parameter (it reads p, g, m and writes p, m); PyTorch's operators read and write
each tensor several times.
"""

import logging
import time
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType, NoneType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lion.arithmetic import LOW_PRECISION
from lion.fusible import GRADS, PLAIN_TYPES, Columns, are_fusible, own_shards
from lion.plain import _multi_tensor_lion, _single_tensor_lion
from lion.settings import check_rows
from lion.state import momentum_dtype

log = logging.getLogger(__name__)

Row = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""A parameter, its gradient, momentum and compensation."""

FUSED_DTYPES = (torch.float32, torch.bfloat16)
KERNELS = {"cpu": "lion.fused_cpu", "cuda": "lion.fused_cuda"}


def takes_fused(
    params: Sequence[Tensor], *, fused: bool | None, foreach: bool | None, differentiable: bool, cautious: bool
) -> bool:
    """Whether a step over these parameters uses `_fused_lion`: if requested, or by default if no other back end is."""
    if fused is None:
        other = foreach is not None or differentiable or cautious
        return not other and all(param.device.type in KERNELS for param in params)
    return fused


def compile_kernels(group: dict[str, Any]) -> None:
    """Compile the kernels that a parameter group needs, so that the first step takes no longer than the others."""
    if _operators_are_intercepted():
        return
    for param in group["params"]:
        if param.dtype in FUSED_DTYPES and param.device.type in KERNELS:
            exp_avg_dtype = momentum_dtype(param, group["momentum_dtype"])
            kept = param.dtype if group["kahan_sum"] and param.dtype in LOW_PRECISION else None
            _kernel(bool(group["fused"]), param.device, param.dtype, param.dtype, exp_avg_dtype, kept)


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
    if fused and not all(param.is_cpu for param in params):
        elsewhere = {param.device.type for param in params} - KERNELS.keys()
        if elsewhere:
            raise RuntimeError(f"fused=True needs parameters on {' or '.join(KERNELS)}, got some on {elsewhere}.")
    scalars = {
        "lr": lr,
        "decay": 1 - lr * weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "sign": -1 if maximize else 1,
        "grad_scale": grad_scale,
        "found_inf": found_inf,
    }
    # Anything that intercepts operators would miss what a kernel does. In a compiled step Inductor fuses the operators.
    watched = torch.is_grad_enabled() or _operators_are_intercepted()
    if params and not watched and type(params[0]) not in PLAIN_TYPES:
        given = [tensor for column in (params, exp_avgs, compensations) for tensor in column if tensor is not None]
        params, grads, exp_avgs, compensations = own_shards([params, grads, exp_avgs, compensations])
        torch.autograd.graph.increment_version(given)  # writing to a shard does not increment the version of the whole
    if params and not watched:
        columns: Columns = [params, grads, exp_avgs]
        if {*map(type, compensations)} != {NoneType}:
            columns = [*columns, compensations]
        kernel = _kernel(bool(fused), *_kind((params[0], grads[0], exp_avgs[0], compensations[0])))
        if kernel and _step_by(kernel, columns, scalars):
            return

    # The tensors differ in kind, or the kernel does not support some of them.
    check_rows(params, grads, exp_avgs, compensations)
    others = [*zip(params, grads, exp_avgs, compensations, strict=True)]
    if not watched:
        others = _step_kind_by_kind(others, bool(fused), scalars)
    if not others or (found_inf is not None and found_inf.item()):
        return
    other_params, other_grads, other_exp_avgs, other_compensations = map(list, zip(*others, strict=True))
    if grad_scale is not None:
        for grad in other_grads:
            grad.mul_(grad_scale.double().reciprocal().to(grad.device))
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


def _step_kind_by_kind(rows: Sequence[Row], asked_for: bool, scalars: dict[str, Any]) -> list[Row]:
    """Step the rows whose device and dtypes have a kernel, kind by kind; returns those left to the operators."""
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    others: list[Row] = []
    for kind, alike in kinds.items():
        kernel = _kernel(asked_for, *kind)
        if kernel is None:
            others += alike
            continue
        fusible: list[Row] = []
        refused: list[Row] = []
        for row in alike:
            operands = [[tensor] for tensor in row if tensor is not None]
            (fusible if are_fusible(operands, kernel.ALIGNMENT_BYTES) else refused).append(row)
        columns = [list(column) for column in zip(*fusible, strict=True) if column[0] is not None]
        others += refused if columns and _step_by(kernel, columns, scalars) else alike
    return others


def _operators_are_intercepted() -> bool:
    """Whether a fake or tracing mode, functorch or a compiler intercepts calls of operators."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def _kind(row: Sequence[Tensor | None]) -> tuple[torch.device | torch.dtype | None, ...]:
    param = row[0]
    assert param is not None
    return (param.device, *[None if tensor is None else tensor.dtype for tensor in row])


def _step_by(kernel: ModuleType, columns: Columns, scalars: dict[str, Any]) -> bool:
    """Step over all rows and return True, or leave all unchanged and return False."""
    if not kernel.step(columns, **scalars):
        return False
    for index, column in enumerate(columns):
        if index != GRADS or scalars["grad_scale"] is not None:
            torch.autograd.graph.increment_version(column)
    return True


@cache
def _kernel(
    asked_for: bool,
    device: torch.device,
    param: torch.dtype,
    grad: torch.dtype,
    exp_avg: torch.dtype,
    compensation: torch.dtype | None = None,
) -> ModuleType | None:
    """The module whose kernel supports these dtypes; None if there is none or it cannot be compiled.

    Warns about a failed compilation if the kernel was requested explicitly.
    """
    if not {param, exp_avg} <= {*FUSED_DTYPES} or param != grad or compensation not in (None, torch.bfloat16):
        return None
    if compensation not in (None, param):
        return None
    start = time.perf_counter()
    dtypes = [dtype for dtype in (param, grad, exp_avg, compensation) if dtype is not None]
    one = torch.ones((), device=device)
    try:
        kernel = import_module(KERNELS[device.type])
        # Triton compiles a variant for each kind of argument, a second each; if fused=True was given, compile them all.
        scalings: tuple[dict[str, Tensor], ...] = ({}, {"found_inf": one}, {"grad_scale": one, "found_inf": one})
        for lr in (0.0, one)[: 1 + asked_for]:
            for scaling in scalings if asked_for else scalings[:1]:
                example = [[torch.zeros(1, dtype=dtype, device=device)] for dtype in dtypes]
                if not kernel.step(example, lr=lr, decay=1 - lr, beta1=0.0, beta2=0.0, sign=1, **scaling):
                    raise RuntimeError("the kernel refused tensors of one entry")
    except Exception as error:  # Triton raises plain Exception when it cannot compile
        reason = str(error).strip().partition("\n")[0]
        message = f"Lion's fused kernel cannot be compiled here, so it uses PyTorch's operators: {reason}"
        if asked_for:
            warnings.warn(message, stacklevel=2)
        else:
            log.info(message)
        return None
    log.info("Lion's fused kernel on %s was ready after %.1f s", device, time.perf_counter() - start)
    return kernel
