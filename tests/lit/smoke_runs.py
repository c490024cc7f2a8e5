"""A few generated drawings with names, a labelled set, and smoke runs of LiT on them."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MakeConfig, configs, generated_set

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 200), "grey": (120, 120, 120)}
SOURCE = "[{{kind: local, path: '{}', decode: tests.lit.smoke_runs.{}}}]"


def decode_shapes(folder: Path) -> dict[str, np.ndarray]:
    """80 images of noise around a colour, each with two names: 56 for training, 12 for validation, 12 for the test."""
    rng = np.random.default_rng(0)
    names = [f"{colour} cloud number {number}" for number in range(20) for colour in COLOURS]
    captions = [text for name in names for text in (name, f"a picture of a {name}")]
    base = np.array([COLOURS[name.split()[0]] for name in names])[:, None, None, :]
    return {
        "images": np.clip(base + rng.integers(-30, 30, (80, 32, 32, 3)), 0, 255).astype(np.uint8),
        "captions": np.frombuffer("\n".join(captions).encode(), np.uint8),
        "caption_images": np.repeat(np.arange(80), 2),
        "splits": np.where(np.arange(80) < 56, 0, np.where(np.arange(80) < 68, 1, 2)).astype(np.uint8),
    }


def decode_labelled(folder: Path) -> dict[str, np.ndarray]:
    """40 + 30 random images of ten classes."""
    rng = np.random.default_rng(1)
    return {
        "train_images": rng.integers(0, 256, (40, 32, 32, 3), np.uint8),
        "train_labels": np.arange(40) % 10,
        "test_images": rng.integers(0, 256, (30, 32, 32, 3), np.uint8),
        "test_labels": np.arange(30) % 10,
    }


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that replace the real data sets with the generated ones."""
    folder = tmp_path_factory.mktemp("shapes")
    return [
        *generated_set("shapes", SOURCE.format(folder, "decode_shapes"), tmp_path_factory.mktemp("cache")),
        "data.zero_shot.cifar10.name=ten",
        "data.zero_shot.cifar10.fingerprint=null",
        f"data.zero_shot.cifar10.sources={SOURCE.format(folder, 'decode_labelled')}",
        "data.zero_shot.cifar10.val_size=20",
        "run.device=cpu",
    ]


@pytest.fixture
def make_lit(shapes: list[str], smoke: list[str]) -> MakeConfig:
    """``make_lit("seed=1", ...)``: the config of a smoke run on the generated sets that writes below ``tmp_path``."""
    return configs("lit", [*smoke, *shapes])
