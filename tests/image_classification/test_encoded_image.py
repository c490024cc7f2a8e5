"""Decoding, compared with the pictures that were encoded."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from experiments.harness.encoded_image import decode_rgb
from tests.image_classification.small_imagenet import encoded, odd_pictures, photo

ODD = odd_pictures()


def assert_near(image: Image.Image, expected: Image.Image, mean_difference: float) -> None:
    assert image.mode == "RGB"
    assert image.size == expected.size
    difference = np.abs(np.asarray(image, np.float64) - np.asarray(expected, np.float64))
    assert difference.mean() < mean_difference, "levels of 255"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cmyk", photo(1)), ("grey", photo(2).convert("L").convert("RGB")), ("png_alpha", photo(3)), ("exif", photo(7))],
)
def test_every_colour_model_becomes_rgb_without_transparency_and_without_turning(
    name: str, expected: Image.Image
) -> None:
    image, whole = decode_rgb(ODD[name])
    assert whole
    assert_near(image, expected, mean_difference=3)


def test_a_palette_with_a_transparent_entry_keeps_its_colours() -> None:
    image, whole = decode_rgb(ODD["palette"])
    assert whole
    assert_near(image, photo(6).quantize(16).convert("RGB"), mean_difference=0.01)


def test_a_picture_that_is_cut_is_decoded_as_far_as_it_goes() -> None:
    image, whole = decode_rgb(ODD["truncated"])
    assert not whole
    expected = np.asarray(Image.open(io.BytesIO(encoded(photo(5, (400, 300))))))
    found = np.asarray(image)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[:80], expected[:80])
    assert len(np.unique(found[-20:])) == 1, "the rest is grey"


def test_what_is_no_picture_is_grey() -> None:
    image, whole = decode_rgb(ODD["no_picture"])
    assert not whole
    assert np.unique(np.asarray(image)).tolist() == [128]


@pytest.mark.parametrize("content", [b"", encoded(photo(1))[:30], encoded(photo(1), "PNG")[:60], b"GIF89a"])
def test_nothing_that_is_stored_as_a_picture_raises(content: bytes) -> None:
    image, whole = decode_rgb(content)
    assert (image.mode, whole) == ("RGB", False)


def test_other_code_still_sees_that_a_picture_is_cut() -> None:
    decode_rgb(ODD["truncated"])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
