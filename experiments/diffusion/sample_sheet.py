"""A run's samples.png: a row of generated images for each point of training at which some were generated."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def write_row(path: Path, images: np.ndarray, row: int, rows: int) -> None:
    """Put ``images`` (uint8 ``[N, H, W, 3]``, side by side) into row ``row`` of ``rows``; the others stay as they are,
    black at first. Written aside, so that a crash leaves the old sheet or the new one.
    """
    line = np.concatenate(list(images), axis=1)
    sheet = np.zeros((rows * len(line), *line.shape[1:]), np.uint8)
    if path.exists():
        with Image.open(path) as written:
            sheet[:] = np.asarray(written)
    sheet[row * len(line) : (row + 1) * len(line)] = line
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(sheet).save(aside, "PNG")
    aside.rename(path)
