"""The image sets under conf/data: each pinned version still exists, and is what its config declares."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import fetched


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "train", "test"), [("mnist5k", 4000, 1000), ("fashion_mnist", 60000, 10000), ("cifar10", 50000, 10000)]
)
def test_pinned_downloads_match_the_declared_data_set(name: str, train: int, test: int, tmp_path: Path) -> None:
    data, arrays = fetched(name, tmp_path)
    size, channels = data["image_size"], data["channels"]
    assert arrays["train_images"].shape == (train, size, size, channels)
    assert arrays["test_images"].shape == (test, size, size, channels)
    assert set(np.unique(arrays["train_labels"])) == set(range(data["num_classes"]))
    pixels = arrays["train_images"].reshape(-1, channels) / 255
    np.testing.assert_allclose(pixels.mean(0), data["mean"], atol=5e-5)
    np.testing.assert_allclose(pixels.std(0), data["std"], atol=5e-5)
