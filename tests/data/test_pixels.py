"""Decoded images, compared with the images before encoding."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from experiments.data.pixels import converted, decode_rgb
from experiments.harness.errors import DataError
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
def test_every_colour_model_becomes_rgb_without_alpha_or_exif_rotation(name: str, expected: Image.Image) -> None:
    image, whole = decode_rgb(ODD[name])
    assert whole
    assert_near(image, expected, mean_difference=3)


def test_a_palette_with_a_transparent_entry_keeps_its_colours() -> None:
    image, whole = decode_rgb(ODD["palette"])
    assert whole
    assert_near(image, photo(6).quantize(16).convert("RGB"), mean_difference=0.01)


def test_a_truncated_image_is_decoded_up_to_the_cut() -> None:
    image, whole = decode_rgb(ODD["truncated"])
    assert not whole
    expected = np.asarray(Image.open(io.BytesIO(encoded(photo(5, (400, 300))))))
    found = np.asarray(image)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[:80], expected[:80])
    assert len(np.unique(found[-20:])) == 1, "the rest is grey"


def test_undecodable_bytes_become_a_grey_image() -> None:
    image, whole = decode_rgb(ODD["no_picture"])
    assert not whole
    assert np.unique(np.asarray(image)).tolist() == [128]


@pytest.mark.parametrize("content", [b"", encoded(photo(1))[:30], encoded(photo(1), "PNG")[:60], b"GIF89a"])
def test_damaged_image_bytes_never_raise(content: bytes) -> None:
    image, whole = decode_rgb(content)
    assert (image.mode, whole) == ("RGB", False)


def test_decoding_leaves_pillows_truncation_setting_unchanged() -> None:
    decode_rgb(ODD["truncated"])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def found(content: bytes) -> np.ndarray:
    image, whole = decode_rgb(content)
    assert whole
    return np.asarray(image)


def tiff(pixels: np.ndarray, byte_order: str, bits: int, sample_format: int = 1, black_is: int = 1) -> bytes:
    """A grey TIFF written by its specification, with tags that Pillow would not write."""
    height, width = pixels.shape
    data = pixels.tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, black_is), (273, 200), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    head = (b"II" if byte_order == "<" else b"MM") + struct.pack(f"{byte_order}HIH", 42, 8, len(tags))
    body = b"".join(struct.pack(f"{byte_order}HHII", tag, 4, 1, value) for tag, value in tags)
    return (head + body + bytes(4)).ljust(200, b"\0") + data


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_decodes_to_the_8_bit_original(file_format: str) -> None:
    content = encoded(Image.fromarray(GREY.astype(np.uint16) * 257), file_format)
    np.testing.assert_array_equal(found(content), np.stack([GREY] * 3, 2))


def test_16_bit_grey_is_reduced_like_pillow_reduces_16_bit_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (5, 7))
    grey = found(encoded(Image.fromarray(pixels.astype(np.uint16)), "PNG"))
    colours = Image.open(io.BytesIO(b"P6 7 5 65535\n" + np.stack([pixels] * 3, 2).astype(">u2").tobytes()))
    assert np.abs(grey.astype(int) - np.asarray(colours).astype(int)).max() <= 1, "one of them rounds"
    np.testing.assert_array_equal(grey[..., 0], pixels >> 8)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_tiff_byte_order_and_photometric_interpretation_are_honoured(byte_order: str) -> None:
    pixels = (GREY.astype(np.uint16) * 257).astype(f"{byte_order}u2")
    np.testing.assert_array_equal(found(tiff(pixels, byte_order, 16))[..., 1], GREY)
    if byte_order == "<":  # the only kind with 0 as white that Pillow reads
        np.testing.assert_array_equal(found(tiff(pixels, byte_order, 16, black_is=0))[..., 1], 255 - GREY)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
        tiff(GREY.astype("<i2"), "<", 16, sample_format=2),
        tiff(GREY.astype("<u4"), "<", 32),
        tiff(GREY.astype("i1"), "<", 8, sample_format=2),
    ],
)
def test_pixel_types_without_a_defined_white_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="save the image with 8 or 16 unsigned bits per channel"):
        decode_rgb(content)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_planar_16_bit_colour_is_refused(byte_order: str) -> None:
    shades = np.repeat(np.array([30000, 10000, 60000]), 16).astype(f"{byte_order}u2")  # 4 x 4 of red, then of green
    tags = [(256, 4, [4]), (257, 4, [4]), (258, 3, [16] * 3), (259, 3, [1]), (262, 3, [2]), (273, 4, [300, 332, 364])]
    tags += [(277, 3, [3]), (278, 4, [4]), (279, 4, [32] * 3), (284, 3, [2])]
    body, beside = b"", b""
    for tag, kind, values in tags:
        content = b"".join(struct.pack(f"{byte_order}{'H' if kind == 3 else 'I'}", value) for value in values)
        if len(content) > 4:
            content, beside = struct.pack(f"{byte_order}I", 200 + len(beside)), beside + content
        body += struct.pack(f"{byte_order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = (b"II" if byte_order == "<" else b"MM") + struct.pack(f"{byte_order}HIH", 42, 8, len(tags))
    content = ((head + body + bytes(4)).ljust(200, b"\0") + beside).ljust(300, b"\0") + shades.tobytes()
    with Image.open(io.BytesIO(content)) as opened:
        assert len(np.unique(np.asarray(opened))) > 3, "Pillow reads them right by now: so should we"
    with pytest.raises(DataError, match="separately with 16 bits"):
        decode_rgb(content)


MODES = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]


@pytest.mark.parametrize("mode", [*MODES, "La", "I;16", "I;16B", "I;16L", "I", "F", "made up"])
@pytest.mark.parametrize("target", ["RGB", "RGBA"])
def test_every_pillow_mode_converts_close_to_its_colour_or_is_refused(mode: str, target: str) -> None:
    colour = np.array([204, 51, 102])
    if mode in ("1", "L", "LA", "La", "I", "F", "made up") or mode.startswith("I;16"):
        colour = np.array([255] * 3) if mode == "1" else np.array([90] * 3)
    flat = Image.fromarray(np.broadcast_to(colour.astype(np.uint8), (8, 8, 3)).copy())
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        image = Image.frombytes(mode, (8, 8), np.full((8, 8), 90 * 257).astype(f"{order}u2").tobytes())
    elif mode == "La":
        image = Image.frombytes("La", (8, 8), bytes([45, 128] * 64))  # 90, half transparent
    else:
        image = flat if mode == "made up" else flat.convert("L").convert(mode) if mode in "IF" else flat.convert(mode)
    if mode == "made up":
        image._mode = "made up"
    try:
        pixels = np.asarray(converted(image, target))
    except DataError:
        assert mode in ("I", "F", "made up")
        return
    assert pixels.shape[2] == len(target)
    assert np.abs(pixels[..., :3].astype(int) - colour).max() <= 3


def test_alpha_is_dropped_and_animations_give_their_first_frame() -> None:
    shades = [Image.new("RGBA", (6, 6), (shade, 0, 0, 0)) for shade in (10, 200)]
    assert found(encoded(shades[0], "PNG"))[0, 0].tolist() == [10, 0, 0]
    for file_format in ("GIF", "PNG", "WEBP"):
        frames = [shade.convert("RGB") for shade in shades]
        content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
        assert found(content)[0, 0, 0] < 50
