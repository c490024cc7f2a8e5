"""Sharded parameters (DTensor, FSDP2): two processes take the same steps as one process on the whole tensors."""

import copy
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import Linear, Parameter

from lion import Lion, fused, fused_cpu, measure_step

PROCESSES = 2
SETTINGS: list[dict[str, Any]] = [
    {},
    {"momentum_dtype": torch.bfloat16},
    {"cautious": True},  # its scale needs a sum over all shards
    {"lr": torch.tensor(0.1), "maximize": True},
]


def check_on_one_process(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for settings in SETTINGS:
        check_sharded_tensor(mesh, settings)
    if fused._kernel(False, torch.device("cpu"), *[torch.float32] * 3):
        check_kernel(mesh)
    check_fully_shard(mesh)
    check_checkpoint(mesh, Path(store).parent / "checkpoint")
    dist.barrier()
    # Gloo's threads outlive the process group, and Python's shutdown sometimes aborts while one of them still holds a
    # tensor (github.com/pytorch/pytorch/issues/190489).
    os._exit(0)


def check_sharded_tensor(mesh: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 4), torch.randn(4, 5, 4)  # 5 rows do not divide by 2
    sharded, whole = Parameter(distribute_tensor(start, mesh, [Shard(0)])), Parameter(start.clone())
    optimizers = [Lion([param], **{"lr": 0.1, "weight_decay": 0.1, **settings}) for param in (sharded, whole)]
    for gradient in gradients:
        sharded.grad, whole.grad = distribute_tensor(gradient, mesh, [Shard(0)]), gradient.clone()
        measured, expected = (measure_step(optimizer) for optimizer in optimizers)
        assert measured == pytest.approx(expected)
    assert isinstance(sharded, DTensor)
    assert torch.equal(sharded.full_tensor(), whole)

    new_optimizer = Lion([sharded])
    new_optimizer.load_state_dict(optimizers[0].state_dict())
    exp_avg = new_optimizer.state[sharded]["exp_avg"]
    assert exp_avg.placements == sharded.placements
    assert torch.equal(exp_avg.full_tensor(), optimizers[1].state[whole]["exp_avg"])


def check_kernel(mesh: Any) -> None:
    """The kernel steps each process's own shards if all are placed alike; otherwise PyTorch's operators do."""
    torch.manual_seed(0)
    starts, gradients = [[torch.randn(5, 4), torch.randn(3)] for _ in range(2)]
    for placement in (Shard(0), Replicate()):
        results = []
        for by_kernel in (True, False):
            params = [Parameter(distribute_tensor(start, mesh, [Shard(0)])) for start in starts]
            for param, gradient in zip(params, gradients, strict=True):
                param.grad = distribute_tensor(gradient, mesh, [placement])
            optimizer = Lion(params, lr=0.1, weight_decay=0.1, fused=by_kernel)
            versions = [param._version for param in params]
            with patch.object(fused_cpu, "step", side_effect=fused_cpu.step) as kernel:
                optimizer.step()
            took_shards = any(type(call.args[0][0][0]) is Tensor for call in kernel.mock_calls)
            assert took_shards == (by_kernel and placement == Shard(0))
            assert all(param._version > before for param, before in zip(params, versions, strict=True))
            results += [[param, optimizer.state[param]["exp_avg"]] for param in params]
        for ours, theirs in zip(results[:2], results[2:], strict=True):
            assert all(torch.equal(a.full_tensor(), b.full_tensor()) for a, b in zip(ours, theirs, strict=True))


def check_fully_shard(mesh: Any) -> None:
    torch.manual_seed(0)
    whole, sharded = Linear(6, 3), Linear(6, 3)
    sharded.load_state_dict(whole.state_dict())
    fully_shard(sharded, mesh=mesh)
    for model in (whole, sharded):
        optimizer = Lion(model.parameters(), lr=0.01, weight_decay=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            torch.manual_seed(seed)
            model(torch.randn(8, 6)).square().sum().backward()
            optimizer.step()
    assert isinstance(sharded.weight, DTensor)
    torch.testing.assert_close(sharded.weight.full_tensor(), whole.weight)


def check_checkpoint(mesh: Any, folder: Path) -> None:
    """Training that both processes save midway, sharded or whole, ends as if it had not been interrupted."""
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "momentum_dtype": torch.bfloat16, "kahan_sum": True}

    def make() -> tuple[Linear, Lion]:
        torch.manual_seed(0)
        model = Linear(6, 3)
        fully_shard(model, mesh=mesh)
        return model, Lion(model.parameters(), **settings)

    def train(model: Linear, optimizer: Lion, steps: range) -> None:
        for seed in steps:
            torch.manual_seed(seed)
            model(torch.randn(8, 6)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = make()
    train(model, optimizer, range(6))
    assert isinstance(model.weight, DTensor)
    expected = model.weight.full_tensor()

    model, optimizer = make()
    train(model, optimizer, range(3))
    saved_model, saved = get_state_dict(model, optimizer)
    dcp.save({"model": saved_model, "optimizer": saved}, checkpoint_id=folder)
    full = StateDictOptions(full_state_dict=True)
    whole_model, whole = copy.deepcopy(get_state_dict(model, optimizer, options=full))
    offloaded = StateDictOptions(full_state_dict=True, cpu_offload=True)  # only to the first process
    assert bool(get_optimizer_state_dict(model, optimizer, options=offloaded)) == (dist.get_rank() == 0)

    for sharded in (True, False):
        model, optimizer = make()
        if sharded:
            saved_model, saved = get_state_dict(model, optimizer)
            dcp.load({"model": saved_model, "optimizer": saved}, checkpoint_id=folder)
            set_state_dict(model, optimizer, model_state_dict=saved_model, optim_state_dict=saved)
        else:
            set_state_dict(model, optimizer, model_state_dict=whole_model, optim_state_dict=whole, options=full)
        train(model, optimizer, range(3, 6))
        assert isinstance(model.weight, DTensor)
        assert torch.equal(model.weight.full_tensor(), expected)
        assert optimizer.state[model.weight]["exp_avg"].dtype == torch.bfloat16


@pytest.mark.skipif(not dist.is_available(), reason="this torch is built without torch.distributed")
def test_sharded_steps_in_two_processes_match_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(  # forks have imported torch
        check_on_one_process, args=(str(tmp_path / "store"),), nprocs=PROCESSES, start_method="fork"
    )
