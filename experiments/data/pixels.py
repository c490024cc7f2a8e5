"""Decode images (JPEG, PNG, ...) to 8-bit RGB or RGBA, whatever state they are in."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from experiments.harness.errors import DataError

# What Pillow raises for files that are truncated, corrupt, not an image at all, or unreasonably large.
_FAULTS = (OSError, SyntaxError, ValueError, LookupError, EOFError, zlib.error, struct.error)
_FAULTS += (Image.DecompressionBombError,)  # type: ignore[assignment]

UNREADABLE = Image.new("RGB", (64, 64), (128, 128, 128))
"""Replaces an image of which nothing can be decoded"""
_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
"""Modes that Pillow converts correctly; it clips modes with more bits at 255."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339
"""TIFF tags: photometric interpretation 0 means that 0 is white, planar configuration 2 that colour planes are stored
one after the other, sample format 1 that values are unsigned."""


def decode_rgb(encoded: bytes) -> tuple[Image.Image, bool]:
    """The image in RGB (the first frame of an animation), and whether it could be decoded completely.

    A truncated image is decoded as far as possible, with the rest grey; if nothing can be decoded, the result is 64 x
    64 grey pixels. Greyscale and CMYK become RGB, 16 bits become 8, transparency is dropped, and EXIF orientation is
    not applied, as in the TensorFlow decoders that the paper's pipeline uses. Raises DataError for pixel values that
    are not colours.
    """
    try:
        return _decode(encoded), True
    except _FAULTS:
        pass  # decoded below as far as it goes
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(encoded), False
    except _FAULTS:
        return UNREADABLE.copy(), False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def is_image(encoded: bytes) -> bool:
    """Whether Pillow recognizes an image by its first bytes, whatever the state of the rest."""
    try:
        with Image.open(io.BytesIO(encoded)):
            return True
    except UnidentifiedImageError:
        return False
    except _FAULTS:
        return True


def _decode(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        return converted(image, "RGB")


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert an opened image to ``mode``, RGB or RGBA; of 16 bits (or 12 in a TIFF) the upper 8 are kept. Raises
    DataError for pixel types without a fixed white level: floats, 32-bit and signed numbers.
    """
    tags = getattr(image, "tag_v2", {})
    numbers = tags.get(_SAMPLE_FORMAT, (1,))
    if any(number != 1 for number in (numbers if isinstance(numbers, tuple) else (numbers,))):
        raise DataError(f"its pixels are signed numbers or floats (mode {image.mode}): {_ADVICE}")
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if tags.get(_PLANAR) == 2 and bits > 8:  # Pillow would read single bytes as whole values
        raise DataError(f"it stores its colour planes separately with {bits} bits, which cannot be read: use a PNG.")
    if image.mode == "La":  # greyscale premultiplied by alpha
        return image.convert("LA").convert(mode)
    if image.mode in _EIGHT_BITS:
        return image.convert(mode)
    # Pillow scales a PGM with more than 8 bits to 16, in a 32-bit mode.
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):
        raise DataError(f"its pixels have mode {image.mode}, which has no fixed black and white: {_ADVICE}")
    grey = (np.asarray(image).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey).convert(mode)


_ADVICE = "save the image with 8 or 16 unsigned bits per channel."
