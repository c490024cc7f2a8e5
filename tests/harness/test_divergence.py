"""A NaN is detected at the step that causes it, with any optimizer, and nothing after it is kept."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from omegaconf import DictConfig

from experiments.harness import session, train
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, Diverged
from experiments.harness.run import locate
from experiments.harness.train import FiniteWatch
from experiments.image_classification import task
from experiments.image_classification.task import ImageClassification
from lion import measure_step
from tests.conftest import MakeConfig, executed, last_checkpoint, last_values, rows, status_of

DENSE = ["train.steps=12", "train.log_every=1", "train.evaluate_every=2", "run.checkpoint_every=1"]


def poison(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """Make the loss of the first of the two micro-batches of step ``step`` non-finite."""
    original = ImageClassification.loss
    calls = 0

    def loss(self: ImageClassification, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()  # computing the statistics of averaged weights calls the loss too
        return original(self, model, batch) * (value if calls == 2 * step - 1 else 1.0)

    monkeypatch.setattr(ImageClassification, "loss", loss)


def assert_nothing_after(directory: Path, step: int) -> None:
    assert max(row["step"] for row in rows(directory)) == step - 1
    newest = last_checkpoint(directory)
    assert newest["step"] == step - 1
    for state in (newest["model"], *newest["optimizer"]["state"].values()):
        assert all(torch.isfinite(value).all() for value in state.values())


def assert_diverged(cfg: DictConfig, reason: str) -> None:
    status = status_of(executed(cfg))
    assert (status["status"], status["reason"]) == ("diverged", reason)


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_is_detected_at_its_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, optimizer: str, value: float
) -> None:
    cfg = make_config(*DENSE, f"optimizer={optimizer}")
    poison(monkeypatch, step=5, value=value)
    assert execute(cfg) == -math.inf, "top-1 accuracy, by which a sweeper would choose, is better when high"
    directory = locate(cfg).directory
    status = status_of(directory)
    assert (status["status"], status["step"]) == ("diverged", 5)
    assert_nothing_after(directory, 5)


def test_a_diverged_run_is_not_run_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_config(*DENSE)
    with monkeypatch.context() as patch:
        poison(patch, step=5, value=math.nan)
        execute(cfg)
    monkeypatch.setattr(session, "make_accelerator", lambda cfg: pytest.fail("the run was started again"))
    assert execute(cfg) == -math.inf
    assert "diverged, the loss or its gradient is not finite at step 5" in capsys.readouterr().out


def test_non_finite_momentum_is_detected_while_weights_and_loss_are_finite(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(*DENSE, "optimizer=lion")

    def poisoned_step(optimizer: torch.optim.Optimizer) -> dict[str, float]:
        state = next(iter(optimizer.state.values()), None)
        if state is not None:
            state["exp_avg"].view(-1)[0] = math.nan
        return measure_step(optimizer)

    monkeypatch.setattr(train, "measure_step", poisoned_step)
    assert_diverged(cfg, "the optimizer's state is not finite at step 2")


def test_a_non_finite_metric_counts_as_divergence(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "classification_metrics", lambda sums: {"loss": math.nan, "top1": 0.0})
    assert_diverged(make_config(*DENSE), "val/loss is not finite at step 2")


@pytest.mark.parametrize("optimizer", ["lion", "sgd"])
def test_weights_that_overflow_before_an_evaluation_count_as_divergence(
    make_config: MakeConfig, optimizer: str
) -> None:
    cfg = make_config(*DENSE, "train.evaluate_every=1", f"optimizer={optimizer}", "optimizer.lr=1e30")
    assert_diverged(cfg, "val/loss is not finite at step 1")


def test_another_metric_that_is_not_finite_is_left_out_with_one_warning(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured = task.classification_metrics
    monkeypatch.setattr(task, "classification_metrics", lambda sums: {**measured(sums), "top5": math.nan})
    assert "val/top5" not in last_values(executed(make_config(*DENSE)))
    said = [message for message in caplog.messages if "val/top5" in message]
    assert said == ["val/top5 is nan at step 2: such values are left out."]


def test_a_metric_that_the_study_names_must_be_measured_or_is_missed_with_a_warning(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"names test/f1, which is not among .*: test/loss, test/top1"):
        execute(make_config("study.primary_metric=test/f1"))
    execute(make_config("study.secondary_metrics=[test/f1]"))
    assert "The study names test/f1, which is not among the metrics of this run: test/loss, test/top1" in caplog.text


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_task_that_does_not_measure_what_decides_is_refused_before_it_trains(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    original = task.build

    def build(*arguments: Any) -> ImageClassification:
        made = original(*arguments)
        del made.evaluators[split]
        return made

    monkeypatch.setattr(task, "build", build)
    cfg = make_config()
    with pytest.raises(ConfigError, match=f"has no evaluator '{split}'"):
        execute(cfg)
    assert not list(locate(cfg).directory.glob("step-*"))


def test_the_first_non_finite_step_is_reported_however_late_it_is_read() -> None:
    watch = FiniteWatch(Accelerator(cpu=True))
    fine, bad = torch.tensor(1.0), torch.tensor(math.inf)
    for step, (loss, grad_norm) in enumerate([(fine, fine), (fine, bad), (fine, fine), (bad, fine)], start=1):
        watch.observe(step, loss, grad_norm)
    with pytest.raises(Diverged, match="step 2"):
        watch.check()
