"""Augmentation, tested by statistical properties of the transformed images."""

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.harness.errors import ConfigError
from experiments.image_classification.augmentation import evaluation_transform, normalization, training_transform
from tests.image_classification.conftest import compose_cell


def ramp(width: int, height: int) -> Image.Image:
    """Red is the horizontal position, green the vertical, each from 0 to 255."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], 2).astype(np.uint8))


def test_random_crops_cover_5_to_100_percent_of_the_area() -> None:
    transform = training_transform(compose_cell("vit_b16"))
    picture, areas, flips = ramp(300, 300), [], 0
    for seed in range(150):
        torch.manual_seed(seed)
        image = transform(picture).numpy().astype(float)
        assert image.shape == (3, 224, 224)
        width, height = image[0].max() - image[0].min(), image[1].max() - image[1].min()
        areas.append(width * height / 255**2)
        flips += int(image[0, 0, 0] > image[0, 0, -1])
    # Shares are uniform in [0.05, 1]; those that would not fit at their aspect ratio are drawn again.
    assert 0.04 < min(areas) < 0.075, "torchvision's own default begins at 0.08"
    assert 0.85 < max(areas) <= 1.01
    assert 0.35 < np.mean(areas) < 0.55
    assert 45 < flips < 105, "half of 150, within 4.9 standard deviations"


def test_randaugment_changes_colours_and_plain_augmentation_does_not() -> None:
    picture = ramp(300, 300)  # no blue in it
    blue: dict[str, list[float]] = {}
    for cell in ("vit_b16", "vit_b16_aug"):
        transform = training_transform(compose_cell(cell))
        blue[cell] = []
        for seed in range(60):
            torch.manual_seed(seed)
            blue[cell].append(transform(picture)[2].max().item())
    assert max(blue["vit_b16"]) == 0
    assert np.mean(np.array(blue["vit_b16_aug"]) > 0) > 0.25, "grey where it was shifted, and changed colours"


@pytest.mark.parametrize(("cell", "shorter"), [("vit_b16", 256), ("i21k_vit_b16_384", 439)])
def test_evaluation_uses_the_centre_crop(cell: str, shorter: int) -> None:
    cfg = compose_cell(cell)
    size = cfg.data.image_size
    image = evaluation_transform(cfg)(ramp(2 * shorter, shorter)).float()
    assert image.shape == (3, size, size)
    assert image[1].mean() == pytest.approx(127.5, abs=1)
    assert image[1].max() - image[1].min() == pytest.approx(255 * size / shorter, abs=2)
    assert image[0].max() - image[0].min() == pytest.approx(255 * size / (2 * shorter), abs=2)


def test_pixels_are_normalized_to_minus_one_to_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert normalization(compose_cell("vit_b16"))(images)[:, 0, 0, 0].tolist() == [-1, 1]


def test_a_randaugment_magnitude_out_of_range_is_refused() -> None:
    cfg = compose_cell("vit_b16_aug", "augmentation.randaugment_magnitude=31")
    with pytest.raises(ConfigError, match=r"randaugment_magnitude must be in 0\.\.30, but it is 31"):
        training_transform(cfg)
