"""The direction of a metric comes from its declaration, whatever the command line says."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.harness.composition import composed
from experiments.harness.config import resolved
from experiments.harness.errors import ConfigError
from experiments.harness.metric import Metric, find, metrics_of
from experiments.harness.source_code import ROOT, our_tasks
from experiments.image_classification import config as image_classification
from experiments.report.labels import metric_of
from experiments.study.directions import with_directions
from tests.harness.test_run import LINEAR
from tests.study.test_study import run_study, studies

TASKS = our_tasks()
# By hand, from what each metric measures: errors and distances are better when low, shares that are right when high.
LOW = {
    "loss", "log_perplexity", "perplexity", "word_log_perplexity", "word_perplexity", "bits_per_byte", "fid", "kid",
    "calibrated_loss", "calibration_error", "fd_efficientnet_lite0", "kid_efficientnet_lite0", "perturbed_loss",
    "train_loss", "invalid_answers",
}  # fmt: skip


def study_of(task: str, *overrides: str) -> dict[str, Any]:
    return with_directions(resolved(composed(task, ["optimizer=adamw", *overrides])))


@pytest.mark.parametrize("task", TASKS)
def test_every_declared_direction_is_correct(task: str) -> None:
    for name, metric in metrics_of(task).items():
        assert metric.better == ("lower" if name in LOW else "higher"), name


def test_a_metric_name_has_the_same_declaration_in_all_tasks() -> None:
    for one, other in pairwise(TASKS):
        ours, theirs = metrics_of(one), metrics_of(other)
        assert {name: ours[name] for name in ours if name in theirs} == {
            name: theirs[name] for name in theirs if name in ours
        }


def test_directions_of_the_papers_numbers_match_the_metrics() -> None:
    cells = yaml.safe_load((ROOT / "results/paper.yaml").read_text())["cells"]
    compared = 0
    for task, named in cells.items():
        for cell in named.values():
            for name, entry in cell["metrics"].items():
                if found := find(metrics_of(task), f"test/{name}"):
                    assert entry["better"] == found.better, (task, name)
                    compared += 1
    assert compared > 50


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.validation_metric=val/lose"], r"study\.validation_metric names val/lose, but .* declares no"),
        (["study.validation_metric=loss"], r"study\.validation_metric names loss, but"),
        (["study.validation_metric=train/loss"], r"train/loss is not measured during the search"),
        (["study.validation_metric=test/top1"], r"test/top1 is not measured during the search"),
        (["study.primary_metric=test/bits_per_byte"], r"study\.primary_metric names test/bits_per_byte, but image"),
        (["study.primary_metric=val/real_top1"], r"primary_metric names val/real_top1, which is measured only on test"),
        (
            ["study.primary_metric=flatness/perturbed_loss", "flatness.draws=0"],
            r"primary_metric names flatness/perturbed_loss, but flatness\.draws=0 turns that measurement off",
        ),
        (["study.secondary_metrics=[test/top5,test/top3]"], r"study\.secondary_metrics names test/top3"),
        (["study.secondary_metrics=[samples/loss]"], r"samples/loss, which is measured only on train and val and test"),
    ],
)
def test_an_undeclared_or_unmeasured_metric_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_of("image_classification", "scale=smoke", *overrides)


def test_a_per_set_metric_must_name_a_configured_set() -> None:
    study = study_of("lit", "scale=smoke", "study.secondary_metrics=[test/cifar10_top1,test/loss]")
    assert study["secondary_metrics"] == {"test/cifar10_top1": "higher", "test/loss": "lower"}
    with pytest.raises(ConfigError, match=r"names test/cfiar10_top1, but data\.zero_shot has no cfiar10: cifar10\."):
        study_of("lit", "scale=smoke", "study.secondary_metrics=[test/cfiar10_top1]")
    with pytest.raises(ConfigError, match=r"names test/coco_i2t_recall1, but data\.retrieval has no coco: none\."):
        study_of("lit", "scale=smoke", "study.secondary_metrics=[test/coco_i2t_recall1]")
    assert metric_of("test/cifar10_top1").label == "cifar10 zero-shot top-1 accuracy"


@pytest.mark.parametrize("name", ["test/top1", "val/top5", "test/v2_top1"])
def test_a_headline_metric_must_be_secondary_and_measured_on_both_splits(name: str) -> None:
    secondary = "study.secondary_metrics=[test/top5,test/v2_top1,val/top5]"
    with pytest.raises(ConfigError, match=rf"study\.headline_metric={name} must be one of study\.secondary_metrics"):
        study_of("image_classification", "scale=smoke", secondary, f"study.headline_metric={name}")
    study = study_of("image_classification", "scale=smoke", secondary, "study.headline_metric=test/top5")
    assert study["headline_better"] == "higher"


def test_validation_and_primary_metrics_have_their_own_directions() -> None:
    study = study_of("image_classification", "scale=smoke", "study.validation_metric=val/loss")
    assert (study["better"], study["validation_better"]) == ("higher", "lower")


def test_the_lower_loss_wins(command_line: list[str], tmp_path: Path) -> None:
    run_study(
        command_line, *LINEAR, "optimizer=lion,adamw", "study=fixed", "study.replicates=4", "study.numbers=0-3",
        "settings.lion.lr=1e-6", "settings.adamw.lr=1e-3", "study.primary_metric=val/loss", "study.margin=0",
        "train.steps=20", "schedule.warmup_steps=1",
    )  # fmt: skip
    (summary,) = studies(tmp_path)
    (primary,) = [row for row in summary["comparisons"] if row["primary"]]
    assert primary["better"] == "lower"
    assert primary["mean"]["lion"] > primary["mean"]["adamw"]
    assert primary["verdict"] == "adamw"


def test_a_metric_with_another_direction_than_higher_or_lower_is_refused() -> None:
    with pytest.raises(ConfigError, match="'speed' has better='smaller': it must be higher or lower"):
        Metric("speed", "smaller")  # type: ignore[arg-type]


def test_a_task_cannot_redefine_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image_classification.METRICS, "loss", Metric("loss", "higher"))
    with pytest.raises(ConfigError, match="METRICS of the task image_classification redefines loss"):
        metrics_of("image_classification")
