"""docs/lion.md: its examples run, and its statements about sizes and schedulers are true."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import timm.optim
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments

from experiments.harness.source_code import ROOT
from lion import Lion
from tests.lion.building import with_gradient

PAGE = (ROOT / "docs" / "lion.md").read_text()
OWN_LOOP, TRAINER, LIGHTNING, ACCELERATE, TIMM = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


class Classifier(torch.nn.Module):
    """Logits, and a loss if labels are given, as Trainer expects."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.layer(inputs)
        return logits if labels is None else {"loss": torch.nn.functional.cross_entropy(logits, labels)}


@pytest.fixture(autouse=True)
def accelerates_state() -> Iterator[None]:
    """Accelerate's state is global to the process and must not leak into other tests."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def names(tmp_path: Any) -> dict[str, Any]:
    inputs, targets = torch.randn(8, 4), torch.randint(3, (8,))
    return {
        "torch": torch,
        "timm": timm,
        "Lion": Lion,
        "Trainer": Trainer,
        "model": Classifier(),
        "batches": [(inputs, targets)] * 3,
        "dataset": [{"inputs": x, "labels": y} for x, y in zip(inputs, targets, strict=True)],
        "arguments": TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, max_steps=2, weight_decay=0.5, report_to=[], save_strategy="no"
        ),
        "accelerator": Accelerator(cpu=True),  # after TrainingArguments, which reset the shared state
    }


@pytest.mark.parametrize("example", [OWN_LOOP, ACCELERATE, TIMM])
def test_the_loop_accelerate_and_timm_examples_build_a_lion(example: str, tmp_path: Any) -> None:
    namespace = names(tmp_path)
    before = namespace["model"].layer.weight.detach().clone()
    exec(example, namespace)
    assert namespace["optimizer"].param_groups[0]["lr"] == 6e-5
    assert namespace["optimizer"].param_groups[-1]["weight_decay"] == 0.5
    if example == OWN_LOOP:
        assert not torch.equal(namespace["model"].layer.weight, before)


def test_the_trainer_example_trains_with_lion(tmp_path: Any) -> None:
    namespace = names(tmp_path)
    exec(f"trainer = {TRAINER}", namespace)
    namespace["trainer"].train()
    optimizer = namespace["trainer"].optimizer.optimizer
    assert isinstance(optimizer, Lion)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5, 0.0}


def test_the_lightning_example_returns_a_lion() -> None:
    namespace: dict[str, Any] = {"Lion": Lion}
    exec(f"def configure_optimizers(self):\n    {LIGHTNING}", namespace)
    assert isinstance(namespace["configure_optimizers"](Classifier()), Lion)


def test_state_bytes_match_the_pages_table() -> None:
    kinds: list[tuple[torch.dtype, dict[str, Any]]] = [
        (torch.float32, {}),
        (torch.float32, {"momentum_dtype": "bfloat16"}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"kahan_sum": True}),
    ]
    rows = re.findall(r"^\| (?:float32|bfloat16)[^|]*\|[^|]*\| (\d) \|", PAGE, flags=re.MULTILINE)
    for (dtype, settings), stated in zip(kinds, rows, strict=True):
        param = with_gradient(torch.zeros(10, dtype=dtype))
        optimizer = Lion([param], **settings)
        optimizer.step()
        assert sum(tensor.nbytes for tensor in optimizer.state[param].values()) == 10 * int(stated)


def test_a_scheduler_that_cycles_momentum_changes_only_the_first_beta() -> None:
    optimizer = Lion([torch.nn.Parameter(torch.zeros(1))])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.99)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    assert beta1 < 0.95
    assert beta2 == 0.99
