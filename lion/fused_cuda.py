"""The fused kernel of a CUDA device: one launch of Triton code takes up to 32 tensors of any size.

A launch for every tensor, which is what the code of `lion.fused_cpu` would come to, takes the host longer than a small
tensor takes the device. What Inductor makes of whole lists of tensors fits one model and compiles for a minute.
"""

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from lion.fusible import Columns, are_fusible

TENSORS_PER_LAUNCH = 32
"""With 4 pointers and 2 floats each, 1.25 KiB of the 4 KiB that a launch's arguments may take."""

BLOCK = 1024
"""Entries of one program. By 4 warps each thread has 2 accesses of 16 bytes to every float32 tensor in flight."""

ALIGNMENT_BYTES = 16
"""What the kernel assumes of every address, to load 4 float32 entries at once."""


def step(
    columns: Columns,
    *,
    lr: float | Tensor,
    decay: float | Tensor,
    beta1: float,
    beta2: float,
    sign: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> bool:
    """Update parameters, momenta and compensations in place; with `grad_scale`, divide the gradients by it in place.

    Nothing changes if `found_inf` is not 0, nor where the kernel cannot take these tensors, which the return value
    says: `lion.fusible.are_fusible` has what they must be. What is given as a tensor stays on the device, so that a
    CUDA graph follows its value.
    """
    if not are_fusible(columns, ALIGNMENT_BYTES):
        return False
    _launch(columns, lr, decay, beta1, beta2, sign, grad_scale, found_inf)
    return True


def _launch(
    columns: Columns,
    lr: float | Tensor,
    decay: float | Tensor,
    beta1: float,
    beta2: float,
    sign: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    device = columns[0][0].device
    if isinstance(lr, Tensor) and isinstance(decay, Tensor):
        lr, decay = (lr.item(), decay.item()) if lr.is_cpu else (_on(device, lr), _on(device, decay))
    inverse_scale = None if grad_scale is None else _on(device, grad_scale.double().reciprocal())
    if found_inf is not None:
        found_inf = _on(device, found_inf)
    rows = [row for row in zip(*columns, strict=True) if row[0].numel()]
    for first in range(0, len(rows), TENSORS_PER_LAUNCH):
        launched = rows[first : first + TENSORS_PER_LAUNCH]
        # One compiled kernel serves any number of tensors: no program reaches those that fill the lists up.
        filled = launched + launched[-1:] * (TENSORS_PER_LAUNCH - len(launched))
        tensors = list(zip(*filled, strict=True))
        sizes = [param.numel() for param in tensors[0]]
        ends = list(accumulate(triton.cdiv(size, BLOCK) for size in sizes))
        programs = ends[len(launched) - 1]
        assert programs <= 2**24, f"a launch over {programs * BLOCK} entries: float32 holds integers up to 2**24 alone"
        with torch.cuda.device_of(columns[0][0]):
            _update[(programs,)](
                *tensors[:3],
                tensors[3] if len(columns) == 4 else None,
                tuple(float(end) for end in ends),
                tuple(float((size - 1) % BLOCK + 1) for size in sizes),
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


@triton.jit
def _update(  # type: ignore[no-untyped-def]
    all_params,
    all_grads,
    all_exp_avgs,
    all_compensations,
    ends,
    entries_of_last_blocks,
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
    """Find the tensors that this program's block belongs to, and update it.

    `ends` are the first blocks behind each tensor. They are floats because Triton (3.6, 3.9) compiles anew for integers
    within a tuple that are 1 or divisible by 16, whatever do_not_specialize says.
    """
    program = tl.program_id(0).to(tl.float32)
    param, grad, exp_avg = all_params[0], all_grads[0], all_exp_avgs[0]
    compensation = None if all_compensations is None else all_compensations[0]
    first_block, end, entries_of_last_block = 0.0, ends[0], entries_of_last_blocks[0]
    for i in tl.static_range(1, len(all_params)):
        behind = program >= ends[i - 1]
        param = tl.where(behind, all_params[i], param)
        grad = tl.where(behind, all_grads[i], grad)
        exp_avg = tl.where(behind, all_exp_avgs[i], exp_avg)
        if all_compensations is not None:
            compensation = tl.where(behind, all_compensations[i], compensation)
        first_block = tl.where(behind, ends[i - 1], first_block)
        end = tl.where(behind, ends[i], end)
        entries_of_last_block = tl.where(behind, entries_of_last_blocks[i], entries_of_last_block)

    start = (program - first_block).to(tl.int64) * block
    remaining = tl.where(program == end - 1, entries_of_last_block, block).to(tl.int32)
    if found_inf is not None:
        remaining = tl.where(tl.load(found_inf) == 0, remaining, 0)
    if inverse_scale is not None:
        inverse_scale = tl.load(inverse_scale)
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
            param,
            grad,
            exp_avg,
            compensation,
            None,
            lr,
            decay,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            sign,
            inverse_scale,
        )
    else:
        mask = entries < remaining
        _update_entries(
            param,
            grad,
            exp_avg,
            compensation,
            mask,
            lr,
            decay,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            sign,
            inverse_scale,
        )


@triton.jit
def _update_entries(  # type: ignore[no-untyped-def]
    param,
    grad,
    exp_avg,
    compensation,
    mask,
    lr,
    decay,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    sign,
    inverse_scale,
):
    """Lion's step, rounded where the operators of `lion.plain` round."""
    p = tl.load(param, mask=mask).to(tl.float32)
    g = tl.load(grad, mask=mask).to(tl.float32)
    if inverse_scale is not None:
        unscaled = (g * inverse_scale).to(grad.dtype.element_ty)
        tl.store(grad, unscaled, mask=mask)
        g = unscaled.to(tl.float32)
    g *= sign
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
