"""Measure what one optimizer step did to weights and state. This reveals NaNs, which Lion would hide."""

import math
from collections.abc import Iterator, Sequence
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

    The call holds one copy of the parameters and synchronizes with the device once, at the end, unless it finds entries
    that are not finite.

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
    stepped = [param for param in params if param.grad is not None]
    before = [param.detach().clone() for param in stepped]
    entries = sum(param.numel() for param in before)
    if entries == 0:
        raise ValueError("measure_step found no gradient in any parameter: call it after backward().")

    optimizer.step()

    torch._foreach_sub_(before, stepped)
    changes = before  # of opposite sign, and without another copy
    states = [value for value in state_tensors(optimizer) if value.is_floating_point() or value.is_complex()]
    device = params[0].device
    changed = torch.stack([_nonzero(change).to(device) for change in changes])
    columns = changed, _norms(changes, device) ** 2, _norms(params, device) ** 2, _norms(states, device)
    # On one device until here, and in float64, which represents counts exactly up to 2**53.
    together = torch.cat([_whole(column).to(torch.float64) for column in columns]).cpu()
    split = together.split([len(column) for column in columns])
    changed_entries, change_square, weight_square, state_norm = (sum(column.tolist()) for column in split)
    nonfinite = 0
    if not math.isfinite(state_norm):  # otherwise every entry of every state is finite
        nonfinite = sum(int(_whole((~torch.isfinite(_wide(value))).sum())) for value in states)
    return {
        "nonfinite_state": float(nonfinite),
        "zero_update_share": (entries - changed_entries) / entries,
        "update_norm": change_square**0.5,
        "weight_norm": weight_square**0.5,
    }


def _nonzero(tensor: Tensor) -> Tensor:
    """The number of entries that are not 0. On a CPU, count_nonzero takes a sixth of the time, but older versions of
    PyTorch do not have it for DTensors.
    """
    return (tensor != 0).sum() if hasattr(tensor, "full_tensor") else tensor.count_nonzero()


def _norms(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The l2 norm of each tensor, float64 ``[tensors]``. Some optimizers keep their step count on the CPU."""
    if not tensors:
        return torch.zeros(0, dtype=torch.float64, device=device)
    wide = [_wide(tensor.detach()) for tensor in tensors]
    return torch.stack([norm.to(device) for norm in torch._foreach_norm(wide)]).to(torch.float64)


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32. An 8-bit float has no norm, and PyTorch does not promote it."""
    narrow = tensor.dtype.itemsize == 1
    return tensor.to(torch.float32 if narrow else torch.promote_types(tensor.dtype, torch.float32))


def _whole(tensor: Tensor) -> Tensor:
    """For sharded parameters (DTensor), in which each process has only its own shard, the value over all of them."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


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
