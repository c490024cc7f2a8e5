"""The image sets under conf/data: offline, each config is usable; online, each pinned version still exists."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.harness.places import check_place
from experiments.harness.prepared_data import prepare

CONFIGS = Path(__file__).resolve().parents[2] / "conf" / "data"
SHA256 = re.compile("[0-9a-f]{64}")


def load(name: str) -> dict[str, Any]:
    data = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "mnist5k"])
def test_every_place_can_be_tried(name: str) -> None:
    data = load(name)
    assert data["name"] == name
    assert data["fingerprint"] is None or SHA256.fullmatch(data["fingerprint"])
    assert len(data["mean"]) == len(data["std"]) == data["channels"]
    for place in data["places"]:
        check_place(place)
        module, function = place["decode"].rsplit(".", 1)
        assert callable(getattr(import_module(module), function))
        assert SHA256.fullmatch(place.get("sha256", "0" * 64))


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "train", "test"), [("mnist5k", 4000, 1000), ("fashion_mnist", 60000, 10000), ("cifar10", 50000, 10000)]
)
def test_pinned_download_is_the_declared_data_set(name: str, train: int, test: int, tmp_path: Path) -> None:
    data = load(name)
    arrays = prepare({**data, "places": data["places"][:1]}, tmp_path).load()
    size, channels = data["image_size"], data["channels"]
    assert arrays["train_images"].shape == (train, size, size, channels)
    assert arrays["test_images"].shape == (test, size, size, channels)
    assert set(np.unique(arrays["train_labels"])) == set(range(data["num_classes"]))
    pixels = arrays["train_images"].reshape(-1, channels) / 255
    np.testing.assert_allclose(pixels.mean(0), data["mean"], atol=5e-5)
    np.testing.assert_allclose(pixels.std(0), data["std"], atol=5e-5)
