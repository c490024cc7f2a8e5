"""Measure what one optimizer step did to weights and state. This reveals NaNs, which Lion would hide."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@torch.no_grad()
def measure_step(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Call `optimizer.step()` once and measure it.

    Lion needs this more than other optimizers: `sign(nan)` is 0, so one NaN gradient turns an entry of the momentum
    into NaN and freezes its weight permanently, while weights and loss stay finite. AdamW's weights turn NaN at once.

    Integer state cannot be NaN, so it is not counted: quantized state is judged by its scales. A NaN shows in torchao's
    but not in bitsandbytes', whose 8-bit optimizers turn it into an ordinary number: check the gradients too.

    The call holds one copy of the parameters and synchronizes with the device once, at the end.

    Args:
        optimizer: any torch optimizer whose step needs no closure, after the gradients have been computed.

    Returns:
        `nonfinite_state`: number of NaN and infinite entries in all floating and complex state tensors after the step,
            and in those inside of tensor subclasses;
        `zero_update_share`: share, 0 to 1, of the entries of parameters with a gradient that the step did not change;
        `update_norm`: l2 norm of the change over all parameters;
        `weight_norm`: l2 norm of all parameters after the step.

    Raises:
        ValueError: no parameter has a gradient, so there is no step to measure.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    before = {param: param.detach().clone() for param in params if param.grad is not None}
    entries = sum(param.numel() for param in before)
    if entries == 0:
        raise ValueError("measure_step found no gradient in any parameter: call it after backward().")

    optimizer.step()

    unchanged = [(param == old).sum() for param, old in before.items()]
    change_squares = [_squared_norm(param - old) for param, old in before.items()]
    weight_squares = [_squared_norm(param) for param in params]
    nonfinite = [
        (~torch.isfinite(value)).sum()
        for value in state_tensors(optimizer)
        if value.is_floating_point() or value.is_complex()
    ]

    # All on one device until the end, and in float64, which represents counts exactly up to 2**53.
    zero = torch.zeros((), dtype=torch.float64, device=params[0].device)
    columns = (unchanged, change_squares, weight_squares, nonfinite)
    totals = torch.stack([sum((value.to(zero) for value in column), zero) for column in columns])
    if hasattr(totals, "full_tensor"):
        totals = totals.full_tensor()  # for sharded parameters (DTensor) each process has summed only its own shard
    unchanged_entries, change_square, weight_square, nonfinite_entries = totals.tolist()
    return {
        "nonfinite_state": nonfinite_entries,
        "zero_update_share": unchanged_entries / entries,
        "update_norm": change_square**0.5,
        "weight_norm": weight_square**0.5,
    }


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """All tensors in an optimizer's state, also those in lists and dicts, and instead of a tensor subclass, such as
    torchao's quantized state, the tensors inside it. Sharded tensors (DTensor) stay whole.
    """
    for state in optimizer.state.values():
        yield from _tensors_in(state)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    elif is_traceable_wrapper_subclass(value) and not hasattr(value, "full_tensor"):
        value = [getattr(value, name) for name in value.__tensor_flatten__()[0]]
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors_in(each)


def _squared_norm(tensor: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(tensor.to(torch.promote_types(tensor.dtype, torch.float32)))
    return norm.double() ** 2
