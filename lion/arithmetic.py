"""The dtype in which a step computes: complex tensors are viewed as real, low precision is computed in float32."""

import torch
from torch import Tensor

LOW_PRECISION = (torch.bfloat16, torch.float16)


def as_real(tensor: Tensor) -> Tensor:
    """View a complex tensor as real with a last axis of size 2, resolving the lazy conjugation of some gradients."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def arithmetic_dtype(param: Tensor, exp_avg: Tensor) -> torch.dtype:
    """Float32, or float64 if the parameter or its momentum is float64."""
    return torch.promote_types(torch.promote_types(param.dtype, exp_avg.dtype), torch.float32)
