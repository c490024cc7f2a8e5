"""One model over several processes: each keeps its share of every weight, gradient and momentum (``run.shards``).

PyTorch's ``fully_shard`` (FSDP2). The weights of one layer at a time are gathered for its forward and its backward
pass. Autocast stays what decides the precision, so that the numbers are those of a run without shards but for the order
of their sums.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


def prepare(model: nn.Module, accelerator: Accelerator, shards: int) -> nn.Module:
    """``model`` on the device, and in a wrapper that averages gradients over the processes of the run. Its weights lie
    whole in each process or, where ``shards`` is above 1, are shared out by so many processes, which divides all.

    Every process brings the same weights.
    """
    if shards == 1:
        prepared: nn.Module = accelerator.prepare(model)
        return prepared
    replicas = accelerator.num_processes // shards
    shape = {"shard": shards} if replicas == 1 else {"replica": replicas, "shard": shards}
    mesh = init_device_mesh(accelerator.device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # fully_shard takes no kernels that lie channels_last
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    prepared = accelerator.prepare_model(model, evaluation_mode=True)  # for autocast alone
    return prepared


def is_sharded(model: nn.Module) -> bool:
    """Whether each process has a share of the weights only."""
    return isinstance(model, FSDPModule)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """What a ModuleList holds, inner ones first: the layers of a transformer. All else is gathered with the model."""
    for child in model.children():
        yield from _layers(child)
    if isinstance(model, nn.ModuleList):
        yield from (child for child in model if not isinstance(child, nn.ModuleList | nn.ModuleDict))


@contextmanager
def more_to_come(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """For backward passes before the last one of a step: processes with the same weights exchange gradients only then.

    Those that share a model out do so after each, or they would hold the gradients of the whole of it.
    """
    if not isinstance(model, FSDPModule):
        with accelerator.no_sync(model):
            yield
        return
    model.set_requires_all_reduce(False)
    yield
    model.set_requires_all_reduce(True)


def clip_gradients(model: nn.Module, max_norm: float | None, accelerator: Accelerator) -> Tensor:
    """Scale the gradients so that the norm of all together is at most ``max_norm``; returns what it was, a scalar."""
    norm: Tensor = accelerator.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Meanwhile each process has all weights, to look at and to run as often as it likes: nobody waits for others."""
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()
