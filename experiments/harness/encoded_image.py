"""Encoded pictures (JPEG, PNG, ...) to RGB, whatever state they are in."""

import io
import struct
import zlib

from PIL import Image, ImageFile

# What Pillow raises for files that are cut, corrupt, no picture at all, or unreasonably large.
_FAULTS = (OSError, SyntaxError, ValueError, LookupError, EOFError, zlib.error, struct.error)
_FAULTS += (Image.DecompressionBombError,)  # type: ignore[assignment]


def decode_rgb(encoded: bytes) -> tuple[Image.Image, bool]:
    """The picture in RGB, and whether it is whole.

    A picture that is cut short is decoded as far as it goes, the rest grey; one of which nothing can be decoded is
    64 x 64 pixels of grey. Grey and CMYK become RGB, transparency is dropped, and an EXIF orientation is not applied:
    so do the decoders of TensorFlow that the paper's pipeline uses.
    """
    try:
        return _decode(encoded), True
    except _FAULTS:
        pass
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(encoded), False
    except _FAULTS:
        return Image.new("RGB", (64, 64), (128, 128, 128)), False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _decode(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")
