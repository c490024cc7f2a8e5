"""The fused CUDA kernel: one launch of Triton code updates any number of tensors of any size.

For small tensors, one launch per tensor would take the host longer than the update takes the device. So would one
launch with all tensors as arguments, because Triton inspects each argument. The kernel therefore reads the tensors'
addresses from a table on the device, which is rewritten only when an address has changed. A step over lists of tensors
compiled by Inductor would fit only one model and take a minute to compile.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._C._dynamo.guards import assert_size_stride

from lion.fusible import PLAIN_TYPES, Columns, are_fusible, dtype_of

BLOCK = 2048
"""Entries per program. With 4 warps, each thread has 4 accesses of 16 bytes to every float32 tensor in flight. On an
H100 this is 1 to 4 % faster than 1024, or than programs of several blocks."""

WARPS = 4

ALIGNMENT_BYTES = 16
"""Alignment that the kernel requires of every address, to load 4 float32 entries at once."""

TABLES = 256
"""How many tables are kept, one per parameter group that steps. A table takes 40 to 48 bytes per tensor."""

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}

FACTS: tuple[Callable[[Tensor], Any], ...] = (dtype_of, Tensor.get_device, Tensor.is_neg)
"""What `are_fusible` depends on besides types, sizes, strides and addresses."""


@dataclass(frozen=True)
class Table:
    """The addresses of tensors that `are_fusible` has accepted, and the properties on which that depends.

    ``on_device`` has an int64 row of first programs, one of sizes, and one of addresses for each column of tensors.
    """

    facts: list[list[Any]]
    sizes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]]
    addresses: list[int]
    on_device: Tensor
    programs: int

    def is_of(self, tensors: list[Tensor], facts: list[list[Any]]) -> bool:
        """Whether the same number of tensors differ at most in their addresses. A full check takes 5 times as long."""
        try:
            deque(map(assert_size_stride, tensors, self.sizes, self.strides), maxlen=0)
        except AssertionError:
            return False
        return self.facts == facts


_tables: dict[tuple[int, ...], Table] = {}
"""The table of the last step, keyed by device, stream, address of the first parameter, and lengths of the columns.

The stream is part of the key because freed memory may be reused at once by its stream's next work. Tables are never
modified, so threads may share them.
"""


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
    """The step of `lion.fused_cpu` on a GPU, for tensors that `lion.fusible.are_fusible` accepts.

    Scalars given as device tensors stay on the device, so that a CUDA graph uses their current values.
    """
    device = columns[0][0].device
    with torch.cuda.device_of(columns[0][0]):
        table = _table(columns, device)
        if table is None:
            return False
        if table.programs == 0:
            return True
        if isinstance(lr, Tensor) and isinstance(decay, Tensor):
            lr, decay = (lr.item(), decay.item()) if lr.is_cpu else (_on(device, lr), _on(device, decay))
        else:
            lr, decay = float(lr), float(decay)
        _update[(table.programs,)](
            table.on_device,
            len(columns[0]),
            lr,
            decay,
            float(beta1),
            1.0 - beta1,
            float(beta2),
            1.0 - beta2,
            float(sign),
            None if grad_scale is None else _on(device, grad_scale.double().reciprocal()),
            None if found_inf is None else _on(device, found_inf),
            param_dtype=DTYPES[columns[0][0].dtype],
            exp_avg_dtype=DTYPES[columns[2][0].dtype],
            compensated=len(columns) == 4,
            lr_on_device=isinstance(lr, Tensor),
            entries_at_once=_entries_at_once(columns),
            block=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,  # fused multiply-adds would skip a rounding that the operators perform
        )
    return True


def _entries_at_once(columns: Columns) -> int:
    """How many adjacent entries a thread handles: 16 bytes of the widest dtype.

    With 16 bytes of a narrower dtype, a warp's accesses to the wider one would have gaps.
    """
    return ALIGNMENT_BYTES // max(column[0].itemsize for column in columns)


def _on(device: torch.device, scalar: Tensor) -> Tensor:
    return scalar.to(device, torch.float32, non_blocking=True)


def _table(columns: Columns, device: torch.device) -> Table | None:
    """The table of these tensors; None if the kernel does not support them."""
    tensors = [*chain.from_iterable(columns)]
    if not PLAIN_TYPES.issuperset(map(type, tensors)):
        return None
    on_gpu = device.type == "cuda"
    facts = [[*map(fact, tensors)] for fact in FACTS]
    addresses = [*map(Tensor.data_ptr, tensors)]
    stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else 0
    key = (device.index or 0, stream, addresses[0], *map(len, columns))
    last = _tables.get(key)
    captured = on_gpu and torch.cuda.is_current_stream_capturing()
    layout = None
    if last is not None and last.is_of(tensors, facts):
        if last.addresses == addresses and not captured:
            return last
        if _are_valid(addresses):
            layout = last.sizes, last.strides
    if layout is None:
        if not are_fusible(columns, ALIGNMENT_BYTES):
            return None
        layout = [*map(tuple, map(Tensor.size, tensors))], [*map(Tensor.stride, tensors)]

    entries = [*map(Tensor.numel, columns[0])]
    *firsts, programs = accumulate((-(-number // BLOCK) for number in entries), initial=0)
    values = [*firsts, *entries, *addresses]
    if captured:
        # A graph stores the arguments of kernels, but only the source address of a copy from the host. Memory allocated
        # during the capture belongs to the graph, so nothing else has to be kept alive for it.
        on_device = torch.zeros(len(values), dtype=torch.int64, device=device)
        torch._foreach_add_([*on_device.unbind()], values)
    else:
        # Pinned, so that the copy does not block; PyTorch reuses pinned memory only after copies from it have finished.
        on_device = torch.tensor(values, dtype=torch.int64, pin_memory=on_gpu).to(device, non_blocking=True)
    table = Table(facts, *layout, addresses, on_device, programs)
    if not captured:
        _tables[key] = table
        for oldest in [*_tables][:-TABLES]:
            _tables.pop(oldest, None)
    return table


def _are_valid(addresses: list[int]) -> bool:
    """Whether `are_fusible` would accept these addresses if no tensor were empty."""
    distinct = {*addresses}
    return len(distinct) == len(addresses) and 0 not in distinct and not any(at % ALIGNMENT_BYTES for at in distinct)


# Do not specialize on the number of tensors or on whether the addresses of the scalars are divisible by 16.
@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["lr", "decay", "inverse_scale", "found_inf"])
def _update(  # type: ignore[no-untyped-def]
    table,
    tensors,
    lr,
    decay,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    sign,
    inverse_scale,
    found_inf,
    param_dtype: tl.constexpr,
    exp_avg_dtype: tl.constexpr,
    compensated: tl.constexpr,
    lr_on_device: tl.constexpr,
    entries_at_once: tl.constexpr,
    block: tl.constexpr,
):
    """Find the tensor that this program's block belongs to, and update the block.

    `table` is `Table.on_device`, of `tensors` columns.
    """
    program = tl.program_id(0)
    table += _tensor_of(program, table, tensors)
    start = (program - tl.load(table)) * block
    remaining = tl.minimum(tl.load(table + tensors) - start, block).to(tl.int32)
    param = tl.load(table + 2 * tensors).to(tl.pointer_type(param_dtype)) + start
    grad = tl.load(table + 3 * tensors).to(tl.pointer_type(param_dtype)) + start
    exp_avg = tl.load(table + 4 * tensors).to(tl.pointer_type(exp_avg_dtype)) + start
    param = tl.multiple_of(param, entries_at_once * param_dtype.primitive_bitwidth // 8)
    grad = tl.multiple_of(grad, entries_at_once * param_dtype.primitive_bitwidth // 8)
    exp_avg = tl.multiple_of(exp_avg, entries_at_once * exp_avg_dtype.primitive_bitwidth // 8)
    compensation = None
    if compensated:
        compensation = tl.load(table + 5 * tensors).to(tl.pointer_type(param_dtype)) + start
        compensation = tl.multiple_of(compensation, entries_at_once * param_dtype.primitive_bitwidth // 8)

    if found_inf is not None:
        remaining = tl.where(tl.load(found_inf) == 0, remaining, 0)
    if inverse_scale is not None:
        inverse_scale = tl.load(inverse_scale)
    if lr_on_device:
        lr = tl.load(lr)
        decay = tl.load(decay)

    entries = tl.arange(0, block)
    scalars = lr, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, sign
    if remaining == block:  # only without a mask does Triton load 16 bytes at once
        _update_entries(param, grad, exp_avg, compensation, entries, None, scalars, inverse_scale)
    elif remaining > 0:
        _update_entries(param, grad, exp_avg, compensation, entries, entries < remaining, scalars, inverse_scale)


@triton.jit
def _tensor_of(program, table, tensors):  # type: ignore[no-untyped-def]
    """The number of the last tensor whose first program is not after this one, by bisection. An empty tensor shares its
    first program with the next.
    """
    tensor = 0
    behind = tensors
    while tensor + 1 < behind:
        middle = (tensor + behind) // 2
        reached = tl.load(table + middle) <= program
        tensor = tl.where(reached, middle, tensor)
        behind = tl.where(reached, behind, middle)
    return tensor


@triton.jit
def _update_entries(params, grads, exp_avgs, compensations, entries, mask, scalars, inverse_scale):  # type: ignore[no-untyped-def]
    """Lion's step, rounded where the operators of `lion.plain` round."""
    lr, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, sign = scalars
    p = tl.load(params + entries, mask=mask)
    g = tl.load(grads + entries, mask=mask)
    m = tl.load(exp_avgs + entries, mask=mask).to(tl.float32)
    param_dtype: tl.constexpr = p.dtype
    p = p.to(tl.float32)
    g = g.to(tl.float32)
    if compensations is not None:
        p += tl.load(compensations + entries, mask=mask).to(tl.float32)
    if inverse_scale is not None:
        unscaled = (g * inverse_scale).to(param_dtype)
        tl.store(grads + entries, unscaled, mask=mask)
        g = unscaled.to(tl.float32)
    g *= sign
    update = m * beta1 + g * one_minus_beta1
    # Adding -0.0 changes no number, not even -0.0, which adding 0.0 would.
    p = p * decay + tl.where(update > 0, -lr, tl.where(update < 0, lr, -0.0))
    rounded = p.to(param_dtype)
    tl.store(params + entries, rounded, mask=mask)
    if compensations is not None:
        tl.store(compensations + entries, (p - rounded.to(tl.float32)).to(param_dtype), mask=mask)
    # The operator add_(g, alpha) rounds once, which a product and a sum would not.
    m = tl.fma(g, one_minus_beta2, m * beta2)
    tl.store(exp_avgs + entries, m.to(exp_avgs.dtype.element_ty), mask=mask)
