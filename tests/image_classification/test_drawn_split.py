"""Validation splits drawn by data.split_seed, and the test loss at the temperature fitted on validation."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from experiments.harness.run import locate
from experiments.image_classification.augmentation import normalization
from experiments.image_classification.data import LabelledImages
from experiments.image_classification.task import ImageClassification
from tests.conftest import MakeConfig, built, measured


def task_of(cfg: Any) -> ImageClassification:
    return built(cfg)


def contents(split: LabelledImages) -> list[tuple[bytes, int]]:
    return [(split.images[n].numpy().tobytes(), int(label)) for n, label in enumerate(split.labels)]


def test_the_split_seed_draws_other_validation_images_of_the_same_set(make_config: MakeConfig) -> None:
    own, one, again, other = (task_of(make_config(f"data.split_seed={seed}")).splits for seed in ("null", 1, 1, 2))
    for splits in (one, other):
        assert contents(splits["test"]) == contents(own["test"])
        assert len(splits["val"].labels) == len(own["val"].labels)
        assert sorted(contents(splits["fit"]) + contents(splits["val"])) == sorted(
            contents(own["fit"]) + contents(own["val"])
        )
    assert contents(one["val"]) == contents(again["val"])
    held_out = [frozenset(contents(splits["val"])) for splits in (own, one, other)]
    assert len({*held_out}) == 3


def test_the_search_for_copies_is_cached_across_split_seeds(make_config: MakeConfig, tmp_path: Any) -> None:
    own_cache = f"run.cache_dir={tmp_path}/cache"
    cfgs = [make_config(f"data.split_seed={seed}", own_cache) for seed in ("null", 1, 2)]
    for cfg in cfgs:
        task_of(cfg)
    cached = {path.name for path in locate(cfgs[0]).data.directory.parent.glob("copies-*") if path.is_dir()}
    assert len(cached) == 1


def test_calibrated_test_loss_uses_the_temperature_fitted_on_validation(make_config: MakeConfig) -> None:
    cfg = make_config()
    task, normalize = task_of(cfg), normalization(cfg)
    torch.manual_seed(0)
    model = task.model().eval()
    nn.init.normal_(model.head.weight, std=3.0)  # type: ignore[union-attr, arg-type]

    @torch.no_grad()
    def loss(log_temperature: float, split: str) -> float:
        pictures = task.splits[split]
        images = torch.stack([pictures.images[n] for n in range(len(pictures.labels))])
        logits = model(normalize(images)).double() / np.exp(log_temperature)
        return nn.functional.cross_entropy(logits, torch.from_numpy(pictures.labels)).item()

    best = optimize.minimize_scalar(loss, bounds=(-3, 3), args=("val",), method="bounded").x
    for processes in (1, 2):
        assert measured(task, "test", model, processes)["calibrated_loss"] == pytest.approx(
            loss(best, "test"), rel=1e-3
        )
        assert measured(task, "val", model, processes)["calibrated_loss"] == pytest.approx(loss(best, "val"), rel=1e-4)
    assert measured(task, "test", model)["loss"] == pytest.approx(loss(0.0, "test"), rel=1e-5)
