"""A run's samples.png: a row of generated images for each evaluation of "samples", and below it a row of real ones."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from experiments.harness.files import write_aside

SMALLEST = 32
"""minimum size of an image on the sheet in pixels; smaller ones are enlarged by an integer factor"""
GAP = 4
"""white pixels to the right of and below each image"""


def write_row(path: Path, images: np.ndarray, row: int, rows: int, real: np.ndarray) -> None:
    """Draw ``images`` (uint8 ``[N, H, W, 3]``, next to each other) into row ``row`` of ``rows``, and ``real`` (of the
    same shape) into one more row below; the other rows are kept, and are white at first. The file is replaced
    atomically.
    """
    line = _line(images)
    sheet = np.full(((rows + 1) * len(line), *line.shape[1:]), 255, np.uint8)
    if path.exists():
        with Image.open(path) as written:
            sheet[:] = np.asarray(written)
    sheet[row * len(line) : (row + 1) * len(line)] = line
    sheet[rows * len(line) :] = _line(real)
    metadata = PngInfo()
    metadata.add_text("last row", "real")
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", pnginfo=metadata)
    write_aside(path, buffer.getvalue())


def _line(images: np.ndarray) -> np.ndarray:
    times = -(-SMALLEST // min(images.shape[1:3]))
    larger = images.repeat(times, axis=1).repeat(times, axis=2)
    framed = np.pad(larger, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
