"""The state of a sharded model on disk: each process writes its part, and any number of processes can read it.

Uses PyTorch's distributed checkpoints, stored as safetensors because PyTorch's own format would be a pickle.
``outline.pt`` beside them is a checkpoint like that of a single process, but its tensors have shapes and no values.
"""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import (
    DefaultSavePlanner,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
    load,
    save,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, distribute_tensor, empty
from torch.optim import Optimizer

OUTLINE = "outline.pt"


def write_shards(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state``: nested dicts and lists of plain data and tensors, each sharded or the same in every process.
    All processes must call this; if one raises, all do.
    """
    tensors: dict[str, Tensor] = {}
    first: dict[Any, str] = {}
    tied: dict[str, str] = {}

    def keep(name: str, tensor: Tensor) -> Tensor:
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        memory = own.untyped_storage()._cdata, own.storage_offset(), own.stride(), tensor.shape
        if (one := first.setdefault(memory, name)) == name:
            tensors[name] = tensor
        else:
            tied[name] = one  # safetensors does not store a tensor twice
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    outline = with_tensors(state, keep)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(tensors, storage_writer=writer, planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True))
    except CheckpointException as failed:  # not an Exception, and the same in all processes
        error, _ = next(iter(failed.failures.values()))
        raise error from failed
    if dist.get_rank() == 0:
        with (folder / OUTLINE).open("wb") as file:
            torch.save({"state": outline, "tied": tied}, file)
            file.flush()
            os.fsync(file.fileno())
        read_outline(folder)


def read_outline(folder: Path) -> dict[str, Any]:
    """Under "state", what ``write_shards`` was given, with tensors on the device ``meta``; under "tied", a mapping from
    each tensor name that is an alias to the name under which that tensor is stored.
    """
    outline: dict[str, Any] = torch.load(folder / OUTLINE, weights_only=True)
    return outline


def read_shards(folder: Path, place: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
    """What ``write_shards`` was given. ``place(name, like)`` makes the tensor, sharded or not, into which the stored
    tensor of that name, shape and dtype is read. Does not wait for other processes.
    """
    outline = read_outline(folder)
    tensors: dict[str, Tensor] = {}

    def make(name: str, like: Tensor) -> Tensor:
        if name in outline["tied"]:
            return tensors[outline["tied"][name]]
        tensors[name] = place(name, like)
        return tensors[name]

    state: dict[str, Any] = with_tensors(outline["state"], make)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which no_dist asks for
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return state


def read_sharded(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What a checkpoint by any number of processes holds, laid out like this sharded ``model`` and its optimizer. State
    with the shape of its parameter is sharded like the parameter; each process holds all other state in full.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]

    def layout(name: str, shape: torch.Size) -> tuple[DeviceMesh, Sequence[Placement]] | None:
        numbered = re.match(r"(?:optimizer\.state|trained)\.(\d+)", name)
        owner = trained[int(numbered[1])] if numbered else named.get(name.removeprefix("model."))
        if not (isinstance(owner, DTensor) and shape):
            return None
        mesh = owner.device_mesh
        return mesh, owner.placements if shape == owner.shape else [Replicate()] * mesh.ndim

    def make(name: str, like: Tensor) -> Tensor:
        if (lies := layout(name, like.shape)) is None:
            return torch.empty_like(like, device="cpu")
        return empty(like.shape, dtype=like.dtype, device_mesh=lies[0], placements=lies[1])

    def share(name: str, whole: Tensor) -> Tensor:
        if lies := layout(name, whole.shape):
            whole = distribute_tensor(whole, *lies, src_data_rank=None)  # all processes have read the same file
        return whole.clone()  # frees the other processes' parts

    if checkpoint.is_dir():
        return read_shards(checkpoint, make)
    whole = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
    state: dict[str, Any] = with_tensors(whole, share)
    return state


def with_tensors(state: Any, put: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """A copy of nested containers in which ``put("optimizer.state.3.exp_avg", tensor)``, say, replaces each tensor."""
    if isinstance(state, Tensor):
        return put(name, state)
    prefix = f"{name}." if name else ""
    if isinstance(state, dict):
        return {key: with_tensors(value, put, f"{prefix}{key}") for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(with_tensors(value, put, f"{prefix}{place}") for place, value in enumerate(state))
    return state
