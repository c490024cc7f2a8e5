"""Shard a model over several processes: each keeps its part of every weight, gradient and momentum (``run.shards``).

Uses PyTorch's ``fully_shard`` (FSDP2), which gathers the weights of one layer at a time for its forward and backward
pass. Autocast still decides the precision, so the numbers are those of an unsharded run except for the order of
summation.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from experiments.harness.accelerator import LONGEST_WAIT
from experiments.harness.errors import ConfigError


def prepare(model: nn.Module, accelerator: Accelerator, shards: int) -> nn.Module:
    """Move ``model`` to the device and wrap it so that gradients are averaged over the run's processes. Each process
    holds all weights or, if ``shards`` is above 1, they are sharded over that many processes; the number of processes
    must be a multiple of it.

    Every process must pass the same weights. Raises ConfigError for a model to shard that has a scalar parameter.
    """
    if shards == 1:
        prepared: nn.Module = accelerator.prepare(model)
        return prepared
    if scalars := [name for name, parameter in model.named_parameters() if not parameter.ndim]:
        raise ConfigError(
            f"run.shards={shards} cannot shard this model: PyTorch's fully_shard takes no scalar parameters, and "
            f"{', '.join(scalars)} is one. Set run.shards to 1."
        )
    mesh = mesh_of(accelerator, shards)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # fully_shard rejects channels_last kernels
    for layer in layers_to_shard(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    prepared = accelerator.prepare_model(model, evaluation_mode=True)  # only for autocast
    return prepared


def mesh_of(accelerator: Accelerator, shards: int) -> DeviceMesh:
    """All processes or, if they are more than ``shards``, a row of them for each copy of the model."""
    device, ranks = accelerator.device.type, torch.arange(accelerator.num_processes).view(-1, shards)
    if len(ranks) == 1:
        return init_device_mesh(device, (shards,), mesh_dim_names=("shard",))
    # With groups of its own, init_device_mesh would let processes wait for each other for NCCL's ten minutes only.
    groups = [dist.new_subgroups_by_enumeration(rows.tolist(), timeout=LONGEST_WAIT)[0] for rows in (ranks.T, ranks)]
    mesh: DeviceMesh = DeviceMesh.from_group(groups, device, mesh=ranks, mesh_dim_names=("replica", "shard"))  # type: ignore[arg-type]
    return mesh


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of the weights."""
    return isinstance(model, FSDPModule)


def layers_to_shard(model: nn.Module) -> Iterator[nn.Module]:
    """Members of each ModuleList, inner ones first: a transformer's layers. The rest is gathered with the model."""
    for child in model.children():
        yield from layers_to_shard(child)
    if isinstance(model, nn.ModuleList):
        yield from (child for child in model if not isinstance(child, nn.ModuleList | nn.ModuleDict))


@contextmanager
def more_to_come(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """For every backward pass of a step but the last, the only one in which copies of a model exchange their gradients.
    Those that shard a model do so in every pass; otherwise each would hold gradients for all its weights.
    """
    if not isinstance(model, FSDPModule):
        with accelerator.no_sync(model):
            yield
        return
    model.set_requires_all_reduce(False)
    yield
    model.set_requires_all_reduce(True)


def clip_gradients(model: nn.Module, max_norm: float | None, accelerator: Accelerator) -> Tensor:
    """Scale the gradients so that their total norm is at most ``max_norm``; returns the norm before that, a scalar."""
    norm: Tensor = accelerator.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside the context, each process holds all weights and can read and run them without waiting for others, but not
    train them.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)  # autocast would keep a copy in bfloat16 of all that are trained
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()
