"""A small ImageNet on disk, with the additional files that its config needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import pytest

from experiments.harness.composition import composed
from tests.image_classification.small_imagenet import CLASSES, source, write_imagenet, write_real, write_v2

V2_KEYS: dict[str, Any] = {
    "files": "imagenetv2-matched-frequency.tar.gz",
    "splits": {"test": "train"},
    "image": "jpeg",
    "label": "__key__",
}


@pytest.fixture(autouse=True)
def no_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library cache")
    datasets.disable_progress_bars()


@pytest.fixture
def imagenet(tmp_path: Path) -> dict[str, Any]:
    """The group ``data`` for a small ImageNet in the hub's layout, as plain containers."""
    return {
        "name": "imagenet",
        "fingerprint": None,
        "num_classes": CLASSES,
        "train_images": 40,
        "sources": [source("hub", write_imagenet(tmp_path / "imagenet"))],
        "v2_sources": [source("hub", write_v2(tmp_path / "v2"), **V2_KEYS)],
        "real_sources": [str(write_real(tmp_path / "real.json"))],
        "initial_run": None,
        "initial_sources": [],
    }


def compose_cell(cell: str, *more: str) -> Any:
    """The config of an experiment at the scale ``paper``."""
    return composed("image_classification", [f"experiment=image_classification/{cell}", "scale=paper", *more])


@pytest.fixture
def compose_small(imagenet: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """``compose_small("vit_b16", ...)``: a cell of the paper on the small ImageNet, its ViT tiny, three steps."""

    def small(cell: str, *more: str) -> Any:
        cfg = compose_cell(
            cell, "run.device=cpu", "run.num_workers=0", "run.wandb=disabled", "run.checkpoint_every=2",
            "train.threads=1", "train.precision=fp32", "train.steps=3", "schedule.warmup_steps=1", "train.batch_size=8",
            "train.micro_batch_size=4", "train.log_every=1", "train.evaluate_every=3", "data.image_size=32",
            "data.val_size=6", f"run.runs_dir={tmp_path}/runs", f"run.cache_dir={tmp_path}/cache", *more,
        )  # fmt: skip
        cfg.data.update({key: value for key, value in imagenet.items() if not key.startswith("initial")})
        if cfg.model["model_name"].startswith("vit"):
            cfg.model = {**cfg.model, "embed_dim": 24, "depth": 2, "num_heads": 2}
        return cfg

    return small
