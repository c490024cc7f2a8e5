"""What a training step reads back from the device: on a GPU, each read waits for all work queued before it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.diffusion.t5 import T5XXL
from experiments.harness.config import composed
from tests.conftest import built
from tests.conftest import digits as digits
from tests.diffusion.conftest import clouds as clouds
from tests.finetuning.conftest import glue_folder as glue_folder
from tests.finetuning.conftest import sentences as sentences
from tests.golden.test_golden import DATA
from tests.language_modeling.conftest import books as books
from tests.lit.conftest import shapes as shapes

READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero", "aten.equal")
"""Operators whose result, or the shape of it, the host must wait for."""


class Census(TorchDispatchMode):
    """Counts operators that read from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = Counter[str]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operator.overloadpacket)
        if name in READS or (name.startswith("aten.index") and any(_is_mask(arg) for arg in args[1:2])):
            self.reads[name] += 1
        return operator(*args, **(kwargs or {}))


def _is_mask(indices: Any) -> bool:
    return isinstance(indices, list | tuple) and any(
        isinstance(each, torch.Tensor) and each.dtype in (torch.bool, torch.uint8) for each in indices
    )


@pytest.fixture
def glue(glue_folder: Path) -> list[str]:
    """Overrides that give the tiny T5 the generated GLUE, whose prompts and answers differ in length."""
    return ["experiment=finetuning/glue_smoke", f"data.places=[{{kind: local, path: '{glue_folder}'}}]"]


CASES = [
    *((task, data, []) for task, data in DATA.items()),
    ("finetuning", "glue", []),
    ("finetuning", "glue", ["model=ft_gpt2_tiny"]),
    ("language_modeling", "books", ["experiment=language_modeling/smoke_masked"]),
]


@pytest.mark.parametrize(("task", "data", "more"), CASES)
def test_loss_and_gradients_do_not_synchronize_with_the_device(
    task: str, data: str, more: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    overrides = ["scale=smoke", "optimizer=lion", f"run.runs_dir={tmp_path}", *request.getfixturevalue(data), *more]
    cfg = composed(task, overrides)
    made = built(cfg)
    model = made.model().train()
    size = min(cfg.train.micro_batch_size, made.num_train)
    batch = made.batch(torch.arange(size).numpy(), list(range(size)))
    with Census() as census:
        made.loss(model, batch).backward()
    assert census.reads == {}


def test_imagens_text_encoder_does_not_synchronize_with_the_device() -> None:
    encoder = T5XXL({"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2})
    with Census() as census:
        encoder(torch.tensor([[4, 5, 6], [7, 0, 0], [0, 0, 0]]))
    assert census.reads == {}


def test_the_census_counts_synchronizing_operators() -> None:
    values = torch.arange(4.0)
    with Census() as census:
        values.sum().item()
        values[values > 1].sum()
    assert census.reads.keys() >= {"aten._local_scalar_dense", "aten.index"}
