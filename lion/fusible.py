"""Which tensors a kernel may access by their addresses."""

from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

Columns = Sequence[list[Any]]
"""Parameters, gradients, momenta and, if any, compensations: a row consists of one tensor of each column."""

GRADS = 1
"""The column that a step only reads, unless it unscales the gradients."""

PLAIN_TYPES = {Tensor, Parameter}

dtype_of: Callable[[Tensor], torch.dtype] = attrgetter("dtype")


def are_plain(columns: Columns) -> bool:
    """Whether the columns have the same length and all tensors are of PyTorch's own types and not lazily negated."""
    return len({*map(len, columns)}) == 1 and all(
        PLAIN_TYPES.issuperset(map(type, column)) and not any(map(Tensor.is_neg, column)) for column in columns
    )


def own_shards(columns: Columns) -> list[list[Any]]:
    """The columns, with each row of equally laid out sharded tensors (DTensor) replaced by this process's shards, which
    is enough because the update is elementwise. Other rows stay as they are.
    """
    rows = [list(row) for row in zip(*columns, strict=True)]
    for row in rows:
        tensors = [tensor for tensor in row if tensor is not None]
        if not all(hasattr(tensor, "placements") for tensor in tensors):
            continue
        param = tensors[0]
        alike = all((each.device_mesh, each.placements) == (param.device_mesh, param.placements) for each in tensors)
        if alike and not any(placement.is_partial() for placement in param.placements):
            row[:] = [None if tensor is None else tensor.to_local() for tensor in row]
    return [list(column) for column in zip(*rows, strict=True)]


def are_fusible(columns: Columns, alignment_bytes: int) -> bool:
    """Whether a kernel may access these tensors by their addresses.

    All tensors must be plain and on one device; each column must have a single dtype; the tensors of a row must have
    the same shape and the same dense memory layout; and no two tensors may start at the same address.

    Raises:
        RuntimeError: a tensor's memory was freed, which would crash the operators too.
    """
    tensors = [*chain.from_iterable(columns)]
    if not are_plain(columns) or len({*map(Tensor.get_device, tensors)}) > 1:
        return False
    if any(len({*map(dtype_of, column)}) > 1 for column in columns) or not all(map(_are_alike, *columns)):
        return False
    filled = [tensor for tensor in tensors if tensor.numel() > 0]
    addresses = {*map(Tensor.data_ptr, filled)}
    if 0 in addresses:
        for tensor in filled:
            if tensor.data_ptr() == 0 and not tensor._is_zerotensor():
                raise RuntimeError(f"The memory of a tensor of shape {tuple(tensor.shape)} was freed before the step.")
        return False
    return len(addresses) == len(filled) and not any(address % alignment_bytes for address in addresses)


def _are_alike(*row: Tensor) -> bool:
    if len({tensor.shape for tensor in row}) > 1:
        return False
    axes = {tuple(_axes(tensor)) for tensor in row}
    expected = 1
    for stride, size in sorted(axes.pop()):
        if stride != expected:
            return False
        expected *= size
    return not axes


def _axes(tensor: Tensor) -> list[tuple[int, int]]:
    """Strides and sizes of the axes whose stride matters, which are those longer than 1."""
    return [(stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]
