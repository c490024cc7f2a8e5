"""Loss and gradients of every cell for GPUs, on fake CUDA tensors: what is trained, and what a GPU cannot do well."""

from importlib import import_module

import pytest

from experiments.harness.composition import composed
from experiments.harness.config import typed
from experiments.harness.memory import CountingMode, move_shapes, pass_memory
from tests.harness.census import Census
from tests.plan.test_memory import EXPERIMENTS

SAMPLES = 2
"""A micro-batch; batch norm and contrasts need more than one."""
CELLS = [pytest.param(cell, marks=[] if cell.endswith("/gpu") else pytest.mark.slow) for cell in EXPERIMENTS]


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_reach_every_parameter_wait_for_no_gpu_and_repeat_their_bits_where_promised(cell: str) -> None:
    task, name = cell.split("/")
    meta = import_module(f"experiments.{task}.models")
    cfg = typed(composed(task, [f"experiment={cell}", f"scale={'gpu' if name.startswith('gpu') else 'paper'}"]))
    model, bf16 = meta.meta_model(cfg), cfg.train.precision == "bf16"
    with CountingMode() as mode:
        move_shapes(model, "cuda")
        with Census("cuda") as census:
            pass_memory(mode, model, lambda: meta.meta_loss(model, cfg, SAMPLES), bf16=bf16, gradients=True)
    assert [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None] == []
    assert census.called["aten.detach"] > 0
    assert census.reads == {}
    assert census.copies == {}
    if cfg.train.deterministic:
        assert census.unreproducible == {}
