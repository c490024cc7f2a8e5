"""The image sets under conf/data: each pinned version still exists, and is what its config declares."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.harness.prepared_data import prepare

CONFIGS = Path(__file__).resolve().parents[2] / "conf" / "data"


def load(name: str) -> dict[str, Any]:
    data = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "train", "test"), [("mnist5k", 4000, 1000), ("fashion_mnist", 60000, 10000), ("cifar10", 50000, 10000)]
)
def test_pinned_downloads_match_the_declared_data_set(name: str, train: int, test: int, tmp_path: Path) -> None:
    data = load(name)
    arrays = prepare({**data, "places": data["places"][:1]}, tmp_path).load()
    size, channels = data["image_size"], data["channels"]
    assert arrays["train_images"].shape == (train, size, size, channels)
    assert arrays["test_images"].shape == (test, size, size, channels)
    assert set(np.unique(arrays["train_labels"])) == set(range(data["num_classes"]))
    pixels = arrays["train_images"].reshape(-1, channels) / 255
    np.testing.assert_allclose(pixels.mean(0), data["mean"], atol=5e-5)
    np.testing.assert_allclose(pixels.std(0), data["std"], atol=5e-5)
