"""A run's samples.png: a row of generated images for each point of training at which some were generated, and a row of
real images below them.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

SMALLEST = 32
"""pixels of an image on the sheet; what is smaller is enlarged by a whole number"""
GAP = 4
"""white pixels to the right of each image and below it"""


def write_row(path: Path, images: np.ndarray, row: int, rows: int, real: np.ndarray) -> None:
    """Put ``images`` (uint8 ``[N, H, W, 3]``, side by side) into row ``row`` of ``rows``, and ``real`` (of the same
    shape) into one more below them; the others stay as they are, white at first. Written aside, so that a crash leaves
    the old sheet or the new one.
    """
    line = _line(images)
    sheet = np.full(((rows + 1) * len(line), *line.shape[1:]), 255, np.uint8)
    if path.exists():
        with Image.open(path) as written:
            sheet[:] = np.asarray(written)
    sheet[row * len(line) : (row + 1) * len(line)] = line
    sheet[rows * len(line) :] = _line(real)
    told = PngInfo()
    told.add_text("last row", "real")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(sheet).save(aside, "PNG", pnginfo=told)
    aside.rename(path)


def _line(images: np.ndarray) -> np.ndarray:
    times = -(-SMALLEST // min(images.shape[1:3]))
    larger = images.repeat(times, axis=1).repeat(times, axis=2)
    framed = np.pad(larger, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
