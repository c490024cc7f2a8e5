"""What a training step reads back from the device: on a GPU each read waits for all that was queued before it.

And which of its operators have no deterministic implementation on a GPU, which ends a run.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from experiments.diffusion.t5 import T5XXL
from experiments.harness.averages import update_average
from experiments.harness.composition import composed
from experiments.harness.optimizer import build_optimizer
from tests.conftest import built
from tests.golden.test_golden import DATA
from tests.harness.census import REFUSED, UNREPRODUCIBLE, Census


@pytest.fixture
def glue(glue_folder: Path) -> list[str]:
    """Overrides that give the tiny T5 the generated GLUE, whose prompts and answers differ in length."""
    return ["experiment=finetuning/glue_smoke", f"data.sources=[{{kind: local, path: '{glue_folder}'}}]"]


CASES = [
    *((task, data, []) for task, data in DATA.items()),
    ("finetuning", "glue", []),
    ("finetuning", "glue", ["model=ft_gpt2_tiny"]),
    ("language_modeling", "books", ["experiment=language_modeling/smoke_masked"]),
    ("diffusion", "captioned_clouds", []),
]


@pytest.mark.parametrize(("task", "data", "more"), CASES)
def test_loss_and_gradients_do_not_synchronize_and_can_repeat_their_bits(
    task: str, data: str, more: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    overrides = ["scale=smoke", "optimizer=lion", f"run.runs_dir={tmp_path}", *request.getfixturevalue(data), *more]
    cfg = composed(task, overrides)
    made = built(cfg)
    model = made.model().train()
    size = min(cfg.train.micro_batch_size, made.num_train)
    batch = made.batch(torch.arange(size).numpy(), list(range(size)))
    with Census("cpu") as census:
        made.loss(model, batch).backward()
    assert census.reads == {}
    assert census.unreproducible == {}


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_updates_of_weights_and_their_average_read_nothing_back_from_the_device(optimizer: str) -> None:
    """On the device ``meta``, because AdamW and PyTorch's average count steps on the CPU, where reading is free."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4)).to("meta")
    config = composed("image_classification", ["scale=smoke", f"optimizer={optimizer}"]).optimizer
    update = build_optimizer(model, {key: value for key, value in config.items() if key != "fused"})  # refuses meta
    average = AveragedModel(model)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    for _ in range(2):  # the first fills state
        with Census("meta") as census:
            update.step()
            update_average(average, model, 0.9)
        assert census.called
        assert census.reads == {}
        assert census.unreproducible == {}


def test_imagens_text_encoder_does_not_synchronize_with_the_device() -> None:
    encoder = T5XXL({"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2})
    with Census("cpu") as census:
        encoder(torch.tensor([[4, 5, 6], [7, 0, 0], [0, 0, 0]]))
    assert census.reads == {}


def test_the_census_counts_synchronizing_operators() -> None:
    values = torch.arange(4.0)
    with Census("cpu") as census:
        values.sum().item()
        values[values > 1].sum()
    assert census.reads.keys() >= {"aten._local_scalar_dense", "aten.index"}


def test_the_census_sees_what_cannot_repeat_its_bits() -> None:
    images = torch.rand(1, 2, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    with Census("cpu") as census:
        larger = nn.functional.interpolate(images, size=8, mode="bilinear")
        nn.functional.cross_entropy(nn.functional.adaptive_avg_pool2d(larger, 4), labels).backward()
    assert census.unreproducible == {
        "aten.nll_loss2d_forward": 1,
        "aten._adaptive_avg_pool2d_backward": 1,
        "aten.upsample_bilinear2d_backward": 1,
    }


def test_the_list_of_operators_that_throw_is_pytorchs() -> None:
    text = str(torch.use_deterministic_algorithms.__doc__)
    text = text.partition("operations will throw a")[2].partition("In addition")[0]
    entries = re.findall(r"\n +\* (:.*?)(?=\n +\* |\Z)", text, re.DOTALL)
    on_cuda = [entry for entry in entries if "CUDA" in entry or not re.search("MPS|quantized", entry)]
    assert {re.match(r":\w+:`([\w.]+)`", entry)[1] for entry in on_cuda} == REFUSED.keys()  # type: ignore[index]
    assert [name for name in UNREPRODUCIBLE if not hasattr(torch.ops.aten, name.removeprefix("aten."))] == []
