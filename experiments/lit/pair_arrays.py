"""Image-text pairs as arrays, and their leak-free split into train, val and test.

images          uint8 [images, size, size, 3]
captions        uint8: all captions in UTF-8, separated by newlines
caption_images  int64 [captions], increasing: the image of each caption
splits          uint8 [images]: 0 train, 1 val, 2 test
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from experiments.data.pixels import converted
from experiments.data.text import folded

SPLITS = ("train", "val", "test")
HELD_OUT_PERCENT = 10
"""percentage of the groups, for val and for test each"""
DUPLICATE_COSINE = 0.95
"""Cosine of two thumbnails' differences from white above which they are near-duplicates. Of the drawings, 1.1 % of val
and 0.2 % of test then still resemble a training image to the image tower (cosine above 0.97); in a random split 3.3 %.
"""
THUMBNAIL = 16
"""Thumbnails are THUMBNAIL x THUMBNAIL blocks of pixels; it divides the image size."""


def pair_arrays(images: Sequence[Image.Image], captions: Sequence[Sequence[str]], size: int) -> dict[str, np.ndarray]:
    """The arrays for images with one or more captions each, split by group.

    Images are put on white, padded to a square and resized. Raises ValueError for an image without a caption.
    """
    for number, texts in enumerate(captions):
        if not texts or not all(isinstance(text, str) and folded(text) for text in texts):
            raise ValueError(f"image {number} has no caption: {texts!r}")
    squares = np.stack([square(image, size) for image in images])
    owners = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    flat = [" ".join(text.split()) for texts in captions for text in texts]
    return {
        "images": squares,
        "captions": np.frombuffer("\n".join(flat).encode(), np.uint8),
        "caption_images": owners,
        "splits": group_splits(groups(squares, captions), captions),
    }


def square(image: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the whole image centered on a white square."""
    image = converted(image, "RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def groups(images: np.ndarray, captions: Sequence[Sequence[str]]) -> np.ndarray:
    """The group of each image, int64: images that share a caption or are near-duplicates are in the same group, also if
    they are only linked through others.
    """
    left, right = np.nonzero(near_duplicates(images))
    first_with: dict[str, int] = {}
    shared = [
        (image, first_with.setdefault(folded(text), image)) for image, texts in enumerate(captions) for text in texts
    ]
    rows = np.concatenate([left, [image for image, _ in shared]])
    columns = np.concatenate([right, [first for _, first in shared]])
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(images), len(images)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def near_duplicates(images: np.ndarray) -> np.ndarray:
    """Whether two images are near-duplicates, bool [images, images].

    Computed with integers that float64 represents exactly, so every machine gets the same result.
    """
    count, block = len(images), images.shape[1] // THUMBNAIL
    differences = 255.0 - images.reshape(count, THUMBNAIL, block, THUMBNAIL, block, 3)
    thumbnails = differences.sum((2, 4)).reshape(count, -1)
    products = thumbnails @ thumbnails.T
    norms = np.sqrt(np.diag(products))
    return products > DUPLICATE_COSINE * norms[:, None] * norms[None, :]


def group_splits(group: np.ndarray, captions: Sequence[Sequence[str]]) -> np.ndarray:
    """The split of each image, uint8, decided by a hash of its group's alphabetically first caption."""
    names: dict[int, str] = {}
    for number, texts in zip(group, captions, strict=True):
        names[number] = min(names.get(number, texts[0]), *texts)
    percent = {
        number: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
        for number, name in names.items()
    }
    places = np.array([percent[number] for number in group])
    return np.where(places < HELD_OUT_PERCENT, 1, np.where(places < 2 * HELD_OUT_PERCENT, 2, 0)).astype(np.uint8)
