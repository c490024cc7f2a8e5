"""Loss and gradients of every cell for GPUs, on fake CUDA tensors: what is trained, and what a GPU cannot do well."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.harness.composition import composed
from experiments.harness.config import typed
from experiments.harness.memory import CountingMode, move_shapes, pass_memory
from tests.harness.census import Census
from tests.plan.test_memory import EXPERIMENTS

SAMPLES = 2
"""A micro-batch; batch norm and contrasts need more than one."""
CELLS = [pytest.param(cell, marks=[] if cell.endswith("/gpu") else pytest.mark.slow) for cell in EXPERIMENTS]


@pytest.fixture(autouse=True)
def no_hydra() -> None:
    GlobalHydra.instance().clear()


@dataclass
class Pass:
    """What a forward and backward pass did."""

    deterministic: bool
    untouched: list[str]
    """trained parameters without a gradient"""
    census: Census


@cache
def pass_of(cell: str) -> Pass:
    task, name = cell.split("/")
    meta = import_module(f"experiments.{task}.models")
    cfg = typed(composed(task, [f"experiment={cell}", f"scale={'gpu' if name.startswith('gpu') else 'paper'}"]))
    model, bf16 = meta.meta_model(cfg), cfg.train.precision == "bf16"
    with CountingMode() as mode:
        move_shapes(model, "cuda")
        with Census("cuda") as census:
            pass_memory(mode, model, lambda: meta.meta_loss(model, cfg, SAMPLES), bf16=bf16, gradients=True)
    untouched = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    return Pass(cfg.train.deterministic, untouched, census)


@pytest.mark.parametrize("cell", CELLS)
def test_every_trained_parameter_gets_a_gradient(cell: str) -> None:
    assert pass_of(cell).untouched == []


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_wait_for_no_gpu_and_repeat_their_bits_where_they_promise_it(cell: str) -> None:
    done = pass_of(cell)
    assert done.census.called["aten.detach"] > 0
    assert done.census.reads == {}
    if done.deterministic:
        assert done.census.unreproducible == {}
