"""Count operations and bytes of a model on the device ``meta``, which has shapes and no values."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from experiments.harness.averages import evaluation_mode
from experiments.harness.low_bit import saved_state
from experiments.harness.memory import CountingMode, move_shapes
from experiments.harness.optimizer import build_optimizer, state_bytes


def training_operations(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, float]:
    """Operations of a forward and a backward pass, in matrix products and convolutions, and the latter's share."""
    counter = _counted(model, lambda: loss().backward())
    total = counter.get_total_flops()
    in_convolutions = sum(
        flops for operator, flops in counter.get_flop_counts()["Global"].items() if "convolution" in str(operator)
    )
    return int(total), in_convolutions / total if total else 0.0


def forward_operations(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Floating point operations of ``forward``, without gradients."""
    with torch.no_grad():
        return int(_counted(model, forward).get_total_flops())


def _counted(model: nn.Module, compute: Callable[[], Any]) -> FlopCounterMode:
    with CountingMode():
        move_shapes(model, "meta")
        with FlopCounterMode(display=False) as counter:
            compute()
    return counter


def optimizer_bytes(model: nn.Module, settings: Mapping[str, Any], averages: bool) -> tuple[int, int]:
    """Bytes of the optimizer's state after a step, and of the run's checkpoint, which also has the weights, the buffers
    and, if the run ``averages`` them, a copy of both; its file is a little larger.
    """
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    on_meta = {key: value for key, value in settings.items() if key != "fused"}  # which needs memory
    optimizer = build_optimizer(model, on_meta)
    optimizer.step()
    with evaluation_mode(optimizer) as trained:
        average = AveragedModel(model).state_dict() if averages else {}
        saved = [model.state_dict(), trained, saved_state(optimizer), average]  # as in TrainingState.save
        stored = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
            for tensor in tree_iter(saved)
            if isinstance(tensor, Tensor)
        }
    return state_bytes(optimizer), sum(stored.values())
