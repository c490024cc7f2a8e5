"""The fused kernel of a CUDA device: one launch of Triton code takes up to 32 tensors of any size.

A launch for every tensor, which is what the code of `lion.fused_cpu` would come to, takes the host longer than a small
tensor takes the device. What Inductor makes of whole lists of tensors fits one model and compiles for a minute.
"""

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

TENSORS_PER_LAUNCH = 32
"""With 4 pointers and 2 integers each, 1.5 KiB of the 4 KiB that a launch's arguments may take."""

BLOCK = 1024
"""Entries of one program. By 4 warps each thread has 2 accesses of 16 bytes to every float32 tensor in flight."""

ALIGNMENT_BYTES = 16
"""What the kernel assumes of every address, to load 4 float32 entries at once."""


def step(
    operands: list[list[Tensor]],
    *,
    lr: float | Tensor,
    decay: float | Tensor,
    beta1: float,
    beta2: float,
    sign: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update the [param, grad, exp_avg] or [param, grad, exp_avg, compensation] of each parameter.

    All are on one device; each column is of one dtype, float32 or bfloat16; the tensors of a row lie in memory alike.
    Nothing changes if `found_inf` is not 0, and gradients are divided by `grad_scale`. What is given as a tensor stays
    on the device, so that a CUDA graph follows its value.
    """
    device = operands[0][0].device
    if isinstance(lr, Tensor) and isinstance(decay, Tensor):
        lr, decay = (lr.item(), decay.item()) if lr.is_cpu else (_on(device, lr), _on(device, decay))
    inverse_scale = None if grad_scale is None else _on(device, grad_scale.double().reciprocal())
    if found_inf is not None:
        found_inf = _on(device, found_inf)
    for first in range(0, len(operands), TENSORS_PER_LAUNCH):
        rows = operands[first : first + TENSORS_PER_LAUNCH]
        sizes = [row[0].numel() for row in rows]
        ends = list(accumulate(-(-size // BLOCK) for size in sizes))
        if ends[-1] == 0:
            continue
        # One compiled kernel serves any number of tensors: what fills the lists up begins behind the last block.
        missing = TENSORS_PER_LAUNCH - len(rows)
        columns = [tuple(column) + column[-1:] * missing for column in zip(*rows, strict=True)]
        with torch.cuda.device_of(columns[0][0]):
            _update[(ends[-1],)](
                *columns[:3],
                columns[3] if len(columns) == 4 else None,
                tuple(_disguised(size) for size in [*sizes, *[0] * missing]),
                tuple(_disguised(block) for block in [0, *ends[:-1], *ends[-1:] * missing]),
                lr,
                decay,
                float(beta1),
                1.0 - beta1,
                float(beta2),
                1.0 - beta2,
                float(sign),
                inverse_scale,
                found_inf,
                lr_on_device=isinstance(lr, Tensor),
                block=BLOCK,
                enable_fp_fusion=False,  # or it would add products unrounded, which the operators do not
            )


def _on(device: torch.device, scalar: Tensor) -> Tensor:
    return scalar.to(device, torch.float32, non_blocking=True)


def _disguised(number: int) -> int:
    """An integer for which Triton compiles nothing anew: it is not 1, not divisible by 16, and always of 64 bits.

    Triton (3.6, 3.9) compiles for each of these kinds of integers within a tuple, whatever do_not_specialize says.
    """
    return 2**40 + 2 * number + 1


@triton.jit
def _update(  # type: ignore[no-untyped-def]
    all_params,
    all_grads,
    all_exp_avgs,
    all_compensations,
    disguised_sizes,
    disguised_first_blocks,
    lr,
    decay,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    sign,
    inverse_scale,
    found_inf,
    lr_on_device: tl.constexpr,
    block: tl.constexpr,
):
    """Find the tensors that this program's block belongs to, and update it."""
    program = tl.program_id(0).to(tl.int64)
    disguised_program = 2 * program + 1 + (1 << 40)
    param, grad, exp_avg = all_params[0], all_grads[0], all_exp_avgs[0]
    compensation = None if all_compensations is None else all_compensations[0]
    size, first_block = disguised_sizes[0], disguised_first_blocks[0]
    for i in tl.static_range(1, len(all_params)):
        reached = disguised_program >= disguised_first_blocks[i]
        param = tl.where(reached, all_params[i], param)
        grad = tl.where(reached, all_grads[i], grad)
        exp_avg = tl.where(reached, all_exp_avgs[i], exp_avg)
        if all_compensations is not None:
            compensation = tl.where(reached, all_compensations[i], compensation)
        size = tl.where(reached, disguised_sizes[i], size)
        first_block = tl.where(reached, disguised_first_blocks[i], first_block)

    start = ((disguised_program - first_block) >> 1) * block
    remaining = ((size - (1 << 40)) >> 1) - start
    if found_inf is not None:
        remaining = tl.where(tl.load(found_inf) == 0, remaining, 0)
    if inverse_scale is not None:
        sign *= tl.load(inverse_scale)
    if lr_on_device:
        lr = tl.load(lr)
        decay = tl.load(decay)

    entries = tl.arange(0, block)
    param = tl.multiple_of(param + start, 16) + entries
    grad = tl.multiple_of(grad + start, 16) + entries
    exp_avg = tl.multiple_of(exp_avg + start, 16) + entries
    if all_compensations is not None:
        compensation = tl.multiple_of(compensation + start, 16) + entries
    # Only without a mask does Triton load 16 bytes at once.
    if remaining >= block:
        _update_entries(
            param, grad, exp_avg, compensation, None, lr, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, sign
        )
    else:
        mask = entries < remaining
        _update_entries(
            param, grad, exp_avg, compensation, mask, lr, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, sign
        )


@triton.jit
def _update_entries(  # type: ignore[no-untyped-def]
    param, grad, exp_avg, compensation, mask, lr, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, sign
):
    """Lion's step, rounded where the operators of `lion.plain` round."""
    p = tl.load(param, mask=mask).to(tl.float32)
    g = tl.load(grad, mask=mask).to(tl.float32) * sign
    m = tl.load(exp_avg, mask=mask).to(tl.float32)
    if compensation is not None:
        p += tl.load(compensation, mask=mask).to(tl.float32)
    update = m * beta1 + g * one_minus_beta1
    # Adding -0.0 changes no number, not even -0.0, which adding 0.0 would.
    p = p * decay + tl.where(update > 0, -lr, tl.where(update < 0, lr, -0.0))
    rounded = p.to(param.dtype.element_ty)
    tl.store(param, rounded, mask=mask)
    if compensation is not None:
        tl.store(compensation, (p - rounded.to(tl.float32)).to(compensation.dtype.element_ty), mask=mask)
    # The operator add_(g, alpha) rounds once, which a product and a sum would not.
    m = tl.fma(g, one_minus_beta2, m * beta2)
    tl.store(exp_avg, m.to(exp_avg.dtype.element_ty), mask=mask)
