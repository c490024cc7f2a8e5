"""Encoded pictures (JPEG, PNG, ...) to RGB or RGBA of 8 bits, whatever state they are in."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile

from experiments.harness.errors import DataError

# What Pillow raises for files that are cut, corrupt, no picture at all, or unreasonably large.
_FAULTS = (OSError, SyntaxError, ValueError, LookupError, EOFError, zlib.error, struct.error)
_FAULTS += (Image.DecompressionBombError,)  # type: ignore[assignment]

UNREADABLE = Image.new("RGB", (64, 64), (128, 128, 128))
"""What stands for a picture of which nothing can be decoded"""
_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
"""Modes that Pillow converts right. It clips those of more bits at 255."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339
"""Tags of TIFF: photometric interpretation 0 means that 0 is white, planar configuration 2 that a colour comes behind
the other, sample format 1 that numbers are unsigned."""


def decode_rgb(encoded: bytes) -> tuple[Image.Image, bool]:
    """The picture in RGB, of an animated one the first frame, and whether it is whole.

    A picture that is cut short is decoded as far as it goes, the rest grey; one of which nothing can be decoded is
    64 x 64 pixels of grey. Grey and CMYK become RGB, 16 bits 8, transparency is dropped, and an EXIF orientation is not
    applied: so do the decoders of TensorFlow that the paper's pipeline uses. Raises DataError for numbers that are no
    colours.
    """
    try:
        return _decode(encoded), True
    except _FAULTS:
        pass
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(encoded), False
    except _FAULTS:
        return UNREADABLE.copy(), False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _decode(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        return converted(image, "RGB")


def converted(image: Image.Image, mode: str) -> Image.Image:
    """An opened picture in ``mode``, RGB or RGBA: of 16 bits (or the 12 that a TIFF says) the upper 8 are kept.

    Raises DataError for pixels that do not say what white is: floats, 32-bit and signed numbers.
    """
    tags = getattr(image, "tag_v2", {})
    numbers = tags.get(_SAMPLE_FORMAT, (1,))
    if any(number != 1 for number in (numbers if isinstance(numbers, tuple) else (numbers,))):
        raise DataError(f"its pixels are signed numbers or floats (mode {image.mode}): {_ADVICE}")
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if tags.get(_PLANAR) == 2 and bits > 8:  # of which Pillow takes single bytes for whole numbers
        raise DataError(f"its colours lie one behind the other in {bits} bits, which cannot be read: write a PNG.")
    if image.mode == "La":  # grey that is multiplied by its transparency already
        return image.convert("LA").convert(mode)
    if image.mode in _EIGHT_BITS:
        return image.convert(mode)
    # Pillow brings a PGM of more than 8 bits to 16, in a mode of 32.
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):
        raise DataError(f"its pixels are of mode {image.mode}, which has no fixed black and white: {_ADVICE}")
    grey = (np.asarray(image).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey).convert(mode)


_ADVICE = "write the picture with 8 or 16 unsigned bits a colour."
