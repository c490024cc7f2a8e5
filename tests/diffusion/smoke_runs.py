"""A few generated images with classes or captions, a random feature network, and diffusion smoke runs on them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import MakeConfig, configs

SOURCE = "[{{kind: local, path: '{}', decode: tests.diffusion.smoke_runs.{}}}]"
COLOURS = np.array([(200, 30, 30), (30, 160, 40), (30, 60, 200), (120, 120, 120)])


def decode_labelled(folder: Path) -> dict[str, np.ndarray]:
    """120 + 40 images of 32x32 pixels in ten classes, each noise around a colour."""
    rng = np.random.default_rng(0)

    def images(count: int) -> np.ndarray:
        base = COLOURS[np.arange(count) % 4][:, None, None, :]
        return np.clip(base + rng.integers(-30, 30, (count, 32, 32, 3)), 0, 255).astype(np.uint8)

    return {
        "train_images": images(120),
        "train_labels": np.arange(120) % 10,
        "test_images": images(40),
        "test_labels": np.arange(40) % 10,
    }


def decode_captioned(folder: Path) -> dict[str, np.ndarray]:
    """The same images with two captions each: 80 for training, 40 for validation, 40 for the test."""
    arrays = decode_labelled(folder)
    captions = [text for number in range(160) for text in (f"cloud {number}", f"a picture of cloud {number}")]
    return {
        "images": np.concatenate([arrays["train_images"], arrays["test_images"]]),
        "captions": np.frombuffer("\n".join(captions).encode(), np.uint8),
        "caption_images": np.repeat(np.arange(160), 2),
        "splits": np.repeat([0, 1, 2], [80, 40, 40]).astype(np.uint8),
    }


def decode_feature_net(folder: Path) -> dict[str, np.ndarray]:
    """EfficientNet-Lite0 with random weights."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    return {name: value.numpy() for name, value in state.items()}


@pytest.fixture(scope="session")
def random_net(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of every diffusion run: the random feature network, and generated images."""
    source = SOURCE.format(tmp_path_factory.mktemp("net"), "decode_feature_net")
    return [
        "data.images.name=clouds",
        "data.images.fingerprint=null",
        "data.weights.features.name=random_net",
        "data.weights.features.fingerprint=null",
        f"data.weights.features.sources={source}",
        f"run.cache_dir={tmp_path_factory.mktemp('cache')}",
        "run.device=cpu",
    ]


@pytest.fixture(scope="session")
def clouds(random_net: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that replace the real data sets with the generated ones."""
    source = SOURCE.format(tmp_path_factory.mktemp("labelled"), "decode_labelled")
    return [*random_net, f"data.images.sources={source}", "data.images.val_size=40"]


@pytest.fixture(scope="session")
def captioned_clouds(random_net: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same for text-to-image."""
    source = SOURCE.format(tmp_path_factory.mktemp("captioned"), "decode_captioned")
    return ["experiment=diffusion/smoke_text", *random_net, f"data.images.sources={source}"]


@pytest.fixture
def make_diffusion(clouds: list[str], smoke: list[str]) -> MakeConfig:
    """``make_diffusion("seed=1", ...)``: the config of a smoke run on the generated sets that writes below
    ``tmp_path``.
    """
    return configs("diffusion", [*smoke, *clouds])


@pytest.fixture
def make_text_to_image(captioned_clouds: list[str], smoke: list[str]) -> MakeConfig:
    """The same for text-to-image."""
    return configs("diffusion", [*smoke, *captioned_clouds])
