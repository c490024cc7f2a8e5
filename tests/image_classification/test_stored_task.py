"""Image classification on stored images: splits, batches, metrics, and complete runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from experiments.harness.batches import MicroBatches
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, DataError, RunError
from experiments.harness.record import read_metrics
from experiments.harness.run import locate
from experiments.harness.seeds import derive_seed
from experiments.image_classification.data import open_image_set
from experiments.image_classification.task import ImageClassification
from tests.conftest import built, executed, measured, status_of, sums_of

ComposeSmall = Callable[..., Any]
Data = dict[str, Any]


def small_task(cfg: Any) -> ImageClassification:
    return built(cfg)


class LikesFirstClass(nn.Module):
    """Ranks the classes 0, 1, 2, ... in this order for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(-torch.arange(10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(images), -1)


def test_a_run_reports_top1_real_and_v2_accuracy(compose_small: ComposeSmall) -> None:
    cfg = compose_small("vit_b16_aug")
    status = status_of(executed(cfg))
    assert status["status"] == "complete"
    assert {"test/top1", "test/top5", "test/loss", "test/real_top1", "test/v2_top1", "val/top1"} <= set(
        status["metrics"]
    )


def test_training_and_validation_splits_partition_the_stored_set(
    compose_small: ComposeSmall, imagenet: Data, tmp_path: Path
) -> None:
    task = small_task(compose_small("vit_b16"))
    splits, stored = task.splits, open_image_set(imagenet, tmp_path).train
    assert (task.num_train, len(splits["val"].labels)) == (34, 6)
    pictures = [
        np.asarray(splits[name].images[index]).tobytes()
        for name in ("fit", "val")
        for index in range(len(splits[name].labels))
    ]
    assert sorted(pictures) == sorted(np.asarray(stored.image(row)).tobytes() for row in range(40))
    labels = np.concatenate([splits["fit"].labels, splits["val"].labels])
    assert sorted(labels) == sorted(stored.labels)
    assert labels.tolist() != stored.labels.tolist(), "sorted rows would give a validation split of the last classes"


@pytest.mark.parametrize("cell", ["vit_b16", "vit_b16_aug"])
def test_a_batch_depends_only_on_seed_and_step(compose_small: ComposeSmall, cell: str) -> None:
    cfg = compose_small(cell)
    first, again = (
        MicroBatches(task.batch, task.num_train, 5, cfg.train) for task in (small_task(cfg), small_task(cfg))
    )
    batches = {key: first[first.key(*key)] for key in [(0, 0), (0, 1), (2, 0)]}
    torch.manual_seed(99)
    for key in [(2, 0), (0, 1), (0, 0)]:
        for name, value in again[again.key(*key)].items():
            torch.testing.assert_close(value, batches[key][name], rtol=0, atol=0)
    assert not torch.equal(batches[0, 0]["images"], batches[0, 1]["images"])
    assert batches[0, 0]["images"].shape == (4, 3, 32, 32)
    assert batches[0, 0]["images"].dtype == torch.uint8


class Answers(nn.Module):
    """Gives the same logits for any images, and keeps the images."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images = images
        return self.logits


def given_to_the_model(task: ImageClassification, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model = Answers(torch.zeros(len(batch["images"]), 10))
    task.loss(model, batch)
    return model.images


def test_normalization_and_mixup_match_torchvision_bit_for_bit(compose_small: ComposeSmall) -> None:
    plain = small_task(compose_small("vit_b16_aug", "augmentation.mixup_alpha=0"))
    cfg = compose_small("vit_b16_aug")
    mixing, seeds = small_task(cfg), [derive_seed(place) for place in range(4)]
    one, two = (task.batch(np.arange(4), seeds) for task in (plain, mixing))
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(cfg.data.mean, cfg.data.std)])
    torch.manual_seed(derive_seed(seeds[0], "mixup"))
    expected = v2.MixUp(alpha=cfg.augmentation.mixup_alpha, num_classes=10)(normalize(one["images"]), one["labels"])
    assert torch.equal(given_to_the_model(plain, one), normalize(one["images"]))
    assert torch.equal(given_to_the_model(mixing, two), expected[0])
    assert torch.equal(two["labels"], expected[1])
    other = mixing.batch(np.arange(4), [7, *seeds[1:]])
    assert not torch.allclose(other["labels"], two["labels"]), "the first seed of the micro-batch decides the share"


def test_softmax_and_sigmoid_losses_match_their_formulas(compose_small: ComposeSmall) -> None:
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 3])
    shares = 0.7 * torch.eye(4)[labels] + 0.3 * torch.eye(4)[labels.roll(1)]
    softmax, sigmoid = (small_task(compose_small("vit_b16", f"loss={name}")) for name in ("softmax", "sigmoid"))
    model, images = Answers(logits), torch.zeros(3, 3, 1, 1, dtype=torch.uint8)
    p = logits.sigmoid()
    for target, given in ((torch.eye(4)[labels], labels), (shares, shares)):
        batch = {"images": images, "labels": given}
        expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum(1).mean()
        torch.testing.assert_close(sigmoid.loss(model, batch), expected)
        torch.testing.assert_close(softmax.loss(model, batch), -(target * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (3, 0)])
def test_test_metrics_match_a_hand_calculation_for_any_processes_and_workers(
    compose_small: ComposeSmall, imagenet: Data, monkeypatch: pytest.MonkeyPatch, processes: int, workers: int
) -> None:
    monkeypatch.setattr("experiments.image_classification.task.EVALUATION_BATCH_SIZE", 5)
    task = small_task(compose_small("vit_b16", f"run.num_workers={workers}"))
    sums = sums_of(task, "test", LikesFirstClass(), processes)
    metrics = task.evaluators["test"].metrics(sums)
    labels = task.splits["test"].labels
    assert metrics["top1"] == pytest.approx(100 * np.mean(labels == 0))
    assert metrics["top5"] == pytest.approx(100 * np.mean(labels < 5))
    assert metrics["v2_top1"] == pytest.approx(100 / 4), "labels 7, 0, 9, 3"
    # Of the numbers 1 to 12, three have no label and are ignored; the labels of all others include 0.
    real = json.loads(Path(imagenet["real_sources"][0]).read_text())
    assert [len(entry) for entry in real].count(0) == 3
    assert (metrics["real_top1"], sums["real_count"]) == (100, 9)


def test_damaged_images_are_counted_in_the_metrics(compose_small: ComposeSmall) -> None:
    task = small_task(compose_small("vit_b16", "data.val_size=39"))
    assert measured(task, "val", LikesFirstClass())["damaged_images"] == 2, "one is cut, one is no picture"
    assert "damaged_images" not in measured(task, "test", LikesFirstClass())


def test_training_continues_over_damaged_images(compose_small: ComposeSmall) -> None:
    cfg = compose_small("vit_b16", "train.steps=12")  # 96 samples: every one of the 34 at least twice
    rows = read_metrics(executed(cfg))
    assert [row["step"] for row in rows if "train/loss" in row][-1] == 12


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_images": 41}, DataError, r"has 40 training images here, but data\.train_images=41"),
        ({"fingerprint": "0" * 64}, DataError, "has the fingerprint .* here, but its config declares 0000"),
        ({"real_sources": ["/nowhere/real.json"]}, DataError, r"put real\.json of .* at /nowhere/real\.json"),
        ({"real_sources": []}, ConfigError, r"names test/real_top1, but data\.real_sources is empty"),
        ({"channels": 2}, ConfigError, r"data\.channels=2, but images are read in RGB \(3\) or greyscale \(1\)"),
        ({"v2_sources": []}, ConfigError, r"names test/v2_top1, but data\.v2_sources is empty"),
        ({"val_size": 40}, ConfigError, r"data\.val_size=40 must be above 0 and leave some of the 40 training images"),
    ],
)
def test_a_set_that_does_not_match_its_config_is_refused(
    compose_small: ComposeSmall, change: Data, error: type[Exception], message: str
) -> None:
    cfg = compose_small("vit_b16")
    cfg.data.update(change)
    with pytest.raises(error, match=message):
        small_task(cfg)


def test_a_primary_metric_without_its_data_is_refused(compose_small: ComposeSmall) -> None:
    cfg = compose_small("vit_b16", "data=imagenet_alone", "study.primary_metric=test/v2_top1")
    cfg.data.update({"real_sources": [], "v2_sources": []})
    with pytest.raises(ConfigError, match=r"study names test/v2_top1, but data\.v2_sources is empty"):
        small_task(cfg)


def test_imagenet_alone_needs_neither_real_labels_nor_v2(compose_small: ComposeSmall) -> None:
    cfg = compose_small("vit_b16", "data=imagenet_alone")
    cfg.data.update({"real_sources": [], "v2_sources": []})
    metrics = measured(small_task(cfg), "test", LikesFirstClass())
    assert set(metrics) == {"loss", "top1", "top5", "calibrated_loss", "calibration_error"}


def test_the_run_name_depends_on_real_labels_content_but_not_their_path(
    compose_small: ComposeSmall, imagenet: Data, tmp_path: Path
) -> None:
    cfg = compose_small("vit_b16")
    name = locate(cfg).directory.name
    moved = Path(imagenet["real_sources"][0]).rename(tmp_path / "elsewhere.json")
    cfg.data.update({"real_sources": [str(moved)]})
    assert locate(cfg).directory.name == name
    moved.write_text(moved.read_text().replace("[0, 1]", "[1, 0]"))
    assert locate(cfg).directory.name != name


def pretrained(compose_small: ComposeSmall, *more: str) -> Path:
    """The folder of a finished run at 32 pixels on a stand-in for ImageNet-21K."""
    cfg = compose_small("vit_b16", *more)
    cfg.data.name = "imagenet21k"
    return executed(cfg)


@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_fine_tuning_starts_from_the_final_weights_of_the_same_optimizer_and_seed(
    compose_small: ComposeSmall, tmp_path: Path, ema: str
) -> None:
    directory = pretrained(compose_small, f"train.ema_decay={ema}")
    cfg = compose_small("i21k_vit_b16_384", "data.image_size=64")
    task = small_task(cfg)
    started: Any = task.model()
    saved = torch.load(max(directory.glob("step-*.pt")), weights_only=True)
    weights = saved["model"] if ema == "null" else {k.removeprefix("module."): v for k, v in saved["ema"].items()}
    torch.testing.assert_close(started.blocks[1].mlp.fc1.weight, weights["blocks.1.mlp.fc1.weight"], rtol=0, atol=0)
    assert started.pos_embed.shape == (1, 1 + 4 * 4, 24), "32 pixels have 2 x 2 patches, 64 have 4 x 4"
    assert started.head.weight.abs().sum() == 0
    assert execute(cfg) is not None
    name = locate(cfg).directory.name
    directory.rename(directory.with_name("lion-s0-0123456789"))
    assert locate(cfg).directory.name != name, "from other weights it is another run"
    with pytest.raises(DataError, match=r"the complete run on imagenet21k, .*/lion-s1-\* with model vit_\S+ has 0:"):
        locate(compose_small("i21k_vit_b16_384", "data.image_size=64", "seed=1"))


def test_fine_tuning_from_a_damaged_last_checkpoint_is_refused(compose_small: ComposeSmall) -> None:
    last = max(pretrained(compose_small).glob("step-*.pt"))
    task = small_task(compose_small("i21k_vit_b16_384"))
    task.model()
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(RunError, match="is missing or damaged: rerun the command that made the run"):
        task.model()


def test_fine_tuning_from_a_different_models_weights_is_refused(compose_small: ComposeSmall, tmp_path: Path) -> None:
    pretrained(compose_small)
    cfg = compose_small("i21k_vit_b16_384")
    cfg.model = {**cfg.model, "depth": 3}
    with pytest.raises(RunError, match=r"has a different model: it lacks \['blocks\.2\."):
        small_task(cfg).model()
