"""Count operations and bytes of a model on the device ``meta``, which has shapes and no values.

The memory that a run takes on a GPU are weights, gradients, the optimizer's state, and the pass of a micro-batch. See
harness/memory.py for what is not counted, besides CUDA's own memory (CONTEXT_BYTES).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from experiments.harness.averages import evaluation_mode
from experiments.harness.config import Config, processes_on_node
from experiments.harness.errors import refused_as
from experiments.harness.low_bit import saved_state
from experiments.harness.memory import CountingMode, forward_memory, move_shapes, pass_memory
from experiments.harness.optimizer import build_optimizer, state_bytes
from experiments.harness.sharding import layers_to_shard

GPU_BYTES = 79 * 2**30
"""The memory that PyTorch reports for an 80 GB GPU."""
CONTEXT_BYTES = 2**29
"""What each process takes of a GPU's memory for CUDA's context and kernels and cuBLAS's workspaces: an estimate."""


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
    with refused_as(f"optimizer={settings['name']} cannot be planned: it takes no step on the device meta"):
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


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one GPU."""

    saved: int
    """what the forward pass of a micro-batch keeps for the backward pass"""
    peak: dict[str, int]
    """the most at any time of a training step, by optimizer"""
    evaluation: dict[str, int]
    """the most in an evaluator's forward pass, by optimizer; a sharded model is whole on each GPU meanwhile"""

    @property
    def runs(self) -> int:
        """How many runs fit on a GPU of 80 GB."""
        return GPU_BYTES // (max(*self.peak.values(), *self.evaluation.values()) + CONTEXT_BYTES)


def training_memory(
    cfg: Config,
    model: nn.Module,
    loss: Callable[[nn.Module, Any, int], Tensor],
    evaluation: Callable[[nn.Module, Any], Any],
    states: dict[str, int],
) -> TrainingMemory:
    """The memory of training ``model``, which is on the device ``meta`` and is moved from there.

    ``loss(model, cfg, samples)`` is the loss of that many samples, on the model's device, and
    ``evaluation(model, cfg)`` the forward pass of an evaluator's batch; ``states`` are the bytes of each optimizer's
    state.
    """
    train, shards = cfg.train, cfg.run.shards
    processes = max(shards, processes_on_node(cfg.run.gpus) * cfg.run.nodes)
    # Otherwise gradients are allocated while activations are freed.
    there_before = shards > 1 or train.batch_size // train.micro_batch_size > processes
    trained = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    weights = _bytes([*model.parameters(), *model.buffers()])
    averaged = weights if train.ema_decay is not None else 0
    gathered = _gathered(model) if shards > 1 else 0
    with CountingMode() as mode:
        move_shapes(model, "cpu" if cfg.run.device == "cpu" else "cuda")
        used = pass_memory(
            mode,
            model,
            lambda: loss(model, cfg, train.micro_batch_size),
            bf16=train.precision == "bf16",
            gradients=not there_before,
        )
        for parameter in model.parameters():
            parameter.grad = None  # counted below
        evaluated = forward_memory(
            mode,
            model.eval(),
            lambda: evaluation(model, cfg),
            bf16=train.precision == "bf16",
            keeps_casts=shards == 1,
        )
    peak, in_evaluation = {}, {}
    for name, state in states.items():
        during_pass = (weights + averaged + there_before * trained + state) // shards + gathered + used.peak
        logged_step = (weights + averaged + 2 * trained + state) // shards  # measure_step copies the weights
        peak[name] = max(during_pass, logged_step)
        kept = (weights + averaged + state) // shards
        in_evaluation[name] = kept + (weights if shards > 1 else 0) + evaluated
    return TrainingMemory(used.saved, peak, in_evaluation)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in set(tensors))


def _gathered(model: nn.Module) -> int:
    """What each process of a sharded model holds in addition: weights and gradients of the part that is gathered with
    the model, of the largest layer, and of the next, which is fetched meanwhile.
    """
    rest, layers = set(model.parameters()), [0]
    for layer in layers_to_shard(model):  # inner ones first, which are gathered on their own
        own = rest & set(layer.parameters())
        layers.append(_bytes(own))
        rest -= own
    return 2 * (_bytes(rest) + 2 * max(layers))
