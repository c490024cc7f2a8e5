"""One run, compared with a plain training loop."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch.optim.swa_utils import AveragedModel

from experiments.harness.batches import sample_indices
from experiments.harness.entry import execute
from experiments.harness.run import locate
from experiments.harness.seeds import derive_seed
from experiments.image_classification.task import ImageClassification
from tests.conftest import (
    AVERAGED,
    MakeConfig,
    built,
    executed,
    last_checkpoint,
    last_values,
    status_of,
    sums_of,
    values_of,
)

NO_CONVNET = ["~model.widths", "~model.in_channels", "~model.num_classes"]
"""Keys of the smoke experiment's model that another class would not take."""
LINEAR = [*NO_CONVNET, "model._target_=tests.harness.test_run.linear_model"]


def linear_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 10))


def plain_training(cfg: DictConfig, task: ImageClassification) -> tuple[torch.nn.Module, list[float]]:
    """Single-tensor AdamW by hand, whole batch at once, no clipping and no decay of vectors."""
    torch.manual_seed(derive_seed(cfg.seed, "init"))
    model = task.model()
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = copy.deepcopy(first)
    losses = []
    beta1, beta2 = cfg.optimizer.betas
    for step in range(cfg.train.steps):
        size = cfg.train.batch_size
        indices = sample_indices(task.num_train, cfg.seed, step * size, size)
        batch = task.batch(indices, [derive_seed(cfg.seed, "sample", step, 0, place) for place in range(size)])
        images = (batch["images"] / 255 - cfg.data.mean[0]) / cfg.data.std[0]
        loss = F.cross_entropy(model(images), batch["labels"])
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        lr = cfg.optimizer.lr * 0.5 * (1 + math.cos(math.pi * step / cfg.train.steps))
        with torch.no_grad():
            for name, p in model.named_parameters():
                assert p.grad is not None
                if p.ndim > 1:
                    p.mul_(1 - lr * cfg.optimizer.weight_decay)
                first[name].lerp_(p.grad, 1 - beta1)
                second[name].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                corrected = first[name] / (1 - beta1 ** (step + 1))
                p.sub_(lr * corrected / ((second[name] / (1 - beta2 ** (step + 1))).sqrt() + cfg.optimizer.eps))
    return model, losses


def test_a_run_matches_a_hand_written_training_loop(make_config: MakeConfig) -> None:
    cfg = make_config(
        "optimizer=adamw", "train.micro_batch_size=32", "train.clip_norm=null", "train.ema_decay=null",
        "schedule.warmup_steps=0", "train.log_every=1",
    )  # fmt: skip
    directory = executed(cfg)
    model, losses = plain_training(cfg, built(cfg))
    assert values_of(directory, "train/loss") == pytest.approx(losses, rel=1e-5)
    for name, value in last_checkpoint(directory)["model"].items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_gradient_accumulation_matches_the_whole_batch(make_config: MakeConfig) -> None:
    """The forward pass of a batch-norm network depends on the micro-batch, so a linear layer is used instead."""
    losses = {}
    for size in (8, 32):
        settings = ["optimizer=adamw", "data.crop_padding=0", f"train.micro_batch_size={size}", "train.log_every=1"]
        losses[size] = values_of(executed(make_config(*LINEAR, *settings)), "train/loss")
    assert losses[8] == pytest.approx(losses[32], rel=1e-5)


def test_the_exponential_moving_average_of_the_weights_is_evaluated(make_config: MakeConfig) -> None:
    saved = ["run.checkpoint_every=1", "run.keep_checkpoints=3"]
    cfg = make_config(AVERAGED, "train.steps=3", "train.evaluate_every=3", *saved)
    directory, task = executed(cfg), built(cfg)
    weights = [torch.load(path, weights_only=True) for path in sorted(directory.glob("step-*.pt"))]
    average = weights[0]["model"]["head.weight"]  # the first update copies
    for checkpoint in weights[1:]:
        average = 0.9 * average + 0.1 * checkpoint["model"]["head.weight"]
    torch.testing.assert_close(weights[-1]["ema"]["module.head.weight"], average)

    average = AveragedModel(task.model())
    average.load_state_dict(weights[-1]["ema"])
    (reported,) = values_of(directory, "test/loss")
    assert reported == pytest.approx(sums_of(task, "test", average.module)["loss"] / 100, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_a_short_run_learns_blurred_patterns(make_config: MakeConfig, optimizer: str) -> None:
    settings = [f"optimizer={optimizer}", "data.crop_padding=0", "train.steps=60", "train.evaluate_every=20"]
    accuracy = execute(make_config(*LINEAR, *settings))
    assert accuracy is not None
    assert accuracy > 60, "percent right of ten blurred patterns; chance is 10"


def test_a_complete_run_is_not_run_again(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = make_config()
    first = execute(cfg)
    directory = locate(cfg).directory
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert execute(cfg) == first
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    assert "complete" in capsys.readouterr().out


def test_a_search_run_never_evaluates_the_test_split(make_config: MakeConfig) -> None:
    assert not [key for key in last_values(executed(make_config("test=false"))) if key.startswith("test/")]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_compiled_training_matches_eager_training(make_config: MakeConfig, precision: str) -> None:
    losses = []
    for compiled in (False, True):
        settings = [f"train.precision={precision}", "train.steps=4", "train.log_every=1"]
        losses.append(values_of(executed(make_config(f"train.compile={compiled}", *settings)), "train/loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 3e-2)


def test_the_status_file_holds_the_last_value_of_every_metric(make_config: MakeConfig) -> None:
    directory = executed(make_config())
    assert last_values(directory).items() <= status_of(directory)["metrics"].items()
