"""In what dtype a step computes: complex tensors as real ones, low precision in float32."""

import torch
from torch import Tensor

LOW_PRECISION = (torch.bfloat16, torch.float16)


def as_real(tensor: Tensor) -> Tensor:
    """View a complex tensor as real with a last axis of 2; autograd leaves some gradients lazily conjugated."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def arithmetic_dtype(param: Tensor, exp_avg: Tensor) -> torch.dtype:
    """Float32, or float64 where the parameter or its momentum has it."""
    return torch.promote_types(torch.promote_types(param.dtype, exp_avg.dtype), torch.float32)
