"""LiT runs end to end, whichever tower is locked."""

import json
import math

import numpy as np
import pytest
import torch

from experiments.harness.config import typed
from experiments.harness.entry import execute
from experiments.harness.errors import SuiteError
from experiments.harness.run import locate
from experiments.lit.data import pair_splits
from experiments.lit.models import build_locked_tower
from experiments.lit.task import build
from tests.conftest import MakeConfig, built, executed, last_values, rows, sums_of, values_of

TINY_VIT = "{_target_: timm.create_model, model_name: test_vit, img_size: 32, patch_size: 8, num_classes: 0}"
LOCK_IMAGE = ["model.image.trained=null", f"model.image.locked={TINY_VIT}"]
CACHED = [*LOCK_IMAGE, "data.crop_area=null"]


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_a_run_reports_every_metric(make_lit: MakeConfig, optimizer: str) -> None:
    cfg = make_lit(f"optimizer={optimizer}")
    value = execute(cfg)
    directory = locate(cfg).directory
    last = last_values(directory)
    assert value == last["val/mean_recall"]
    for split in ("val", "test"):
        for name in ("loss", "logit_scale", "zero_shot_top1", "zero_shot_top5", "i2t_recall1", "t2i_recall10"):
            assert math.isfinite(last[f"{split}/{name}"])
        assert 0 <= last[f"{split}/zero_shot_top1"] <= last[f"{split}/zero_shot_top5"] <= 100


def test_the_logit_scale_is_logged_at_every_evaluation_and_not_decayed(make_lit: MakeConfig) -> None:
    cfg = make_lit("model.logit_scale_init=30")
    directory = executed(cfg)
    scales = [row["val/logit_scale"] for row in rows(directory) if "val/loss" in row]
    assert len(scales) == cfg.train.steps // cfg.train.evaluate_every
    assert scales[0] == pytest.approx(30, rel=0.02)
    assert scales[0] != 30
    groups = json.loads((directory / "parameter_groups.json").read_text())
    assert "logit_scale" in groups["no_decay"]
    assert "text.0.token_embedding.weight" in groups["no_decay"]


def test_training_raises_recall_above_chance(make_lit: MakeConfig) -> None:
    # Captions and images share one of four colours, so at best 4 times chance can be learnt: 3 of 12 images.
    cfg = make_lit("optimizer=adamw", "train.steps=60", "train.evaluate_every=60", "train.log_every=60", *CACHED)
    last = last_values(executed(cfg))
    assert last["val/t2i_recall1"] > 2 * 100 / 12
    assert last["val/t2i_recall5"] > 2 * 500 / 12 * 0.9


def test_training_on_cached_features_matches_training_with_the_locked_tower(make_lit: MakeConfig) -> None:
    losses = []
    for crop in ("data.crop_area=null", "data.crop_area=[1.0,1.0]"):  # a crop of everything: the same image
        cfg = make_lit(*LOCK_IMAGE, crop, "train.log_every=1", "model.chunk_size=null")
        losses.append(values_of(executed(cfg), "train/loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_cached_features_match_the_locked_towers_outputs(make_lit: MakeConfig) -> None:
    cfg = make_lit(*CACHED)
    data = locate(cfg).data
    task = build(typed(cfg), data)
    tower = build_locked_tower(typed(cfg).model, "image", {})
    pictures = {name: split.images for name, split in pair_splits(data.pairs).items()}
    for split in ("train", "val", "test"):
        numbers = np.arange(len(pictures[split]))
        with torch.no_grad():
            expected = tower(torch.stack([pictures[split][number] for number in numbers.tolist()]))
        torch.testing.assert_close(task.pair_inputs[split].images(numbers), expected, rtol=1e-4, atol=1e-5)


def test_locked_features_are_cached(make_lit: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_lit(*CACHED, "data.templates=imagenet")
    built(cfg)
    monkeypatch.setattr("experiments.lit.task.build_locked_tower", lambda *arguments: None)
    built(cfg)
    other = make_lit(*CACHED, "model.pixel_std=[100,100,100]")
    data = locate(other).data
    with pytest.raises(AttributeError):  # it is built again
        build(typed(other), data)


def test_an_images_caption_depends_only_on_its_sample_seed(make_lit: MakeConfig) -> None:
    cfg = make_lit(*CACHED)
    task = built(cfg)
    indices = torch.arange(8).numpy()
    even, odd = task.batch(indices, [0] * 8)["texts"], task.batch(indices, [1] * 8)["texts"]
    assert not torch.equal(even, odd)
    assert torch.equal(task.batch(indices, [4] * 8)["texts"], even)


BATCH_NORM = ["model.image.trained.model_name=test_resnet", "~model.image.trained.img_size"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.micro_batch_size=16"], r"train\.micro_batch_size=16 must be .* = 32 / 1: .*chunk_size"),
        ([*BATCH_NORM, "~model.image.trained.patch_size"], r"model\.chunk_size=12 .*batch norm"),
        (["model.image_size=17"], r"image tower cannot take images of model\.image_size=17"),
        (["data.split_seed=1", "data.crop_area=[0.5,1.0]"], r"data\.split_seed=1 is for pairs"),
        ([*CACHED, "data.split_seed=1"], "none of the 4 is small enough for the validation split of 12 rows"),
    ],
)
def test_invalid_settings_are_refused(make_lit: MakeConfig, settings: list[str], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        execute(make_lit(*settings))


def test_flatness_is_measured_on_training_samples(make_lit: MakeConfig) -> None:
    cfg = make_lit("flatness.draws=1", "flatness.std=0.1", "flatness.samples=20", *CACHED)
    task = built(cfg)
    sums = sums_of(task, "flatness", task.model())
    assert (sums["0/count"], sums["0/captions"]) == (20, 40)
