"""Test images and texts that also occur in the training set are found, whatever their encoding."""

import io
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data.copies import warn_of_copies, warn_of_same_texts
from experiments.data.pixels import UNREADABLE
from experiments.harness.errors import DataError
from tests.image_classification.small_imagenet import encoded, photo


def noise(seed: int, size: int, levels: int = 256) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, levels, (size, size, 3), np.uint8))


def look(train: list[Image.Image], test: list[Image.Image], folder: Path, **more: int) -> None:
    warn_of_copies("set", train, {"test": test}, "identity", folder, **more)


MAKERS = {
    "noise of 32 pixels": lambda seed: noise(seed, 32),
    "noise of 224 pixels": lambda seed: noise(seed, 224),
    "photos": lambda seed: photo(seed, (60, 44)),
    "dark noise": lambda seed: noise(seed, 64, 60),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_different_images_of_the_same_kind_are_not_reported_as_copies(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    look([MAKERS[kind](seed) for seed in range(100)], [MAKERS[kind](seed) for seed in range(100, 130)], tmp_path)
    assert "also in the training set" not in caplog.text


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_reencoded_copy_is_reported_by_row(
    kind: str, file_format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = [MAKERS[kind](seed) for seed in range(40)]
    test = [MAKERS[kind](seed) for seed in range(100, 130)]
    test[17] = Image.open(io.BytesIO(encoded(train[23], file_format, quality=90))).convert("RGB")
    look(train, test, tmp_path)
    said = "1 of the 30 images in test are also in the training set, such as number 17, which is number 23"
    assert said in caplog.text


def test_a_test_split_copied_from_training_is_refused_also_from_the_cache(tmp_path: Path) -> None:
    train = [noise(seed, 16) for seed in range(40)]
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match="30 of the 30 images in test are also in the training set"):
            look(train, train[5:35], tmp_path)


def test_unreadable_images_are_not_copies_of_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    look([UNREADABLE] * 3, [UNREADABLE] * 3, tmp_path)
    assert "also in the training set" not in caplog.text


def test_the_search_for_copies_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    look([noise(seed, 16) for seed in range(4)], [noise(9, 16)], tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_test_texts_that_also_occur_in_training_are_reported_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    train = [f"text {number}" for number in range(20)]
    with caplog.at_level(logging.WARNING):
        warn_of_same_texts("set", train, {"test": [*(f"other {number}" for number in range(19)), " TEXT\u200b  3"]})
    assert "1 of the 20 texts in test are also in the training set, such as number 19, which is number 3" in caplog.text
    with pytest.raises(DataError, match="20 of the 20 texts in val are also in the training set"):
        warn_of_same_texts("set", train, {"val": train})


def test_all_copies_are_found_among_many_near_identical_images(tmp_path: Path) -> None:
    dots = []
    for place in np.random.default_rng(0).permutation(64 * 64)[:300]:
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels.reshape(-1, 3)[place] = 255
        dots.append(Image.fromarray(pixels))
    with pytest.raises(DataError, match="40 of the 300 images in test are also in the training set"):
        look(dots[:150], [*dots[110:150], *dots[150:], *[noise(seed, 64) for seed in range(110)]], tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked")
def test_workers_find_a_copy_in_any_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [noise(seed, 16) for seed in range(300)]  # two blocks
    test = [noise(290 if seed == 1003 else seed, 16) for seed in range(1000, 1040)]
    look(train, test, tmp_path, num_workers=2)
    said = "1 of the 40 images in test are also in the training set, such as number 3, which is number 290"
    assert said in caplog.text
