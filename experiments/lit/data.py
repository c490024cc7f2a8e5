"""What a LiT run reads: pairs, evaluation sets and weights. ``open_sets`` is its data.access.

A set of pairs is stored files, or these arrays, which ``pair_arrays`` splits without leaks into train, val and test:

images          uint8 [images, size, size, 3]
captions        uint8: all captions in UTF-8, separated by newlines
caption_images  int64 [captions], increasing: the image of each caption
splits          uint8 [images]: 0 train, 1 val, 2 test
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from experiments.data.images import ArrayImages, Images
from experiments.data.labels import check_order
from experiments.data.pixels import converted
from experiments.data.stored import StoredSet
from experiments.data.stored_split import StoredSplit
from experiments.data.text import folded
from experiments.harness.errors import ConfigError
from experiments.harness.prepared_data import PreparedData, cached_arrays, joint_fingerprint, open_set

if TYPE_CHECKING:
    from torch import Tensor


SPLITS = ("train", "val", "test")
HELD_OUT_PERCENT = 10
"""percentage of the groups, for val and for test each"""
DUPLICATE_COSINE = 0.95
"""Cosine of two thumbnails' differences from white above which they are near-duplicates. Of the drawings, 1.1 % of val
and 0.2 % of test then still resemble a training image to the image tower (cosine above 0.97); in a random split 3.3 %.
"""
THUMBNAIL = 16
"""Thumbnails are THUMBNAIL x THUMBNAIL blocks of pixels; it divides the image size."""


@dataclass(frozen=True)
class LitSets:
    """The opened data of LiT's config group ``data``."""

    pairs: PreparedData | StoredSet
    zero_shot: Mapping[str, PreparedData | StoredSet]
    retrieval: Mapping[str, PreparedData | StoredSet]
    weights: Mapping[str, PreparedData]
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of all of these"""


def open_sets(data: Mapping[str, Any], cache_dir: Path) -> LitSets:
    """Open, and if necessary download, the pairs and all sets within ``data``, each with its own ``access`` (by default
    experiments.harness.prepared_data.prepare), the pairs with their ``pair_access``.
    """
    pairs = open_set({**data, "access": data["pair_access"]}, cache_dir)
    groups = {
        group: {name: open_set(one, cache_dir) for name, one in data[group].items()}
        for group in ("zero_shot", "retrieval", "weights")
    }
    parts = {
        "pairs": pairs.fingerprint,
        **{f"{group}/{name}": one.fingerprint for group, sets in groups.items() for name, one in sets.items()},
    }
    return LitSets(pairs, **groups, cache_dir=cache_dir, fingerprint=joint_fingerprint(parts))


class StoredTensors:
    """The images of a stored split, uint8 ``[3, H, W]``."""

    def __init__(self, split: StoredSplit) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, number: int) -> "Tensor":
        from torchvision.transforms.v2 import functional as vision  # here, because a study opens data without it

        return vision.pil_to_tensor(self._split.image(number))


@dataclass(frozen=True)
class Pairs:
    """Images with one or more captions each."""

    images: Images
    captions: list[list[str]]
    fingerprint: str

    def texts(self) -> list[str]:
        """All captions, image by image."""
        return [text for texts in self.captions for text in texts]

    def starts(self) -> np.ndarray:
        """int64 [images + 1]: the captions of image i are ``starts[i]`` to ``starts[i + 1] - 1`` in ``texts()``."""
        return np.cumsum([0, *(len(texts) for texts in self.captions)], dtype=np.int64)


@dataclass(frozen=True)
class ZeroShotSplit:
    """Images with class labels."""

    images: Images
    labels: np.ndarray
    """int64 [images]"""
    class_names: tuple[str, ...] | None
    """by class index, if the set has names"""
    fingerprint: str


def pair_splits(opened: PreparedData | StoredSet) -> dict[str, Pairs]:
    """Those of train, val and test that the set has."""
    if isinstance(opened, StoredSet):
        return {
            name: Pairs(StoredTensors(split), split.captions, f"{opened.fingerprint}/{name}")
            for name, split in opened.splits.items()
        }
    arrays = opened.load()
    captions, splits = _captions(arrays), {}
    for number, name in enumerate(SPLITS):
        rows = np.nonzero(arrays["splits"] == number)[0]
        images = ArrayImages(arrays["images"], rows)
        splits[name] = Pairs(images, [captions[row] for row in rows], f"{opened.fingerprint}/{name}")
    return splits


def _captions(arrays: dict[str, np.ndarray]) -> list[list[str]]:
    """The captions of each image."""
    captions: list[list[str]] = [[] for _ in arrays["images"]]
    for image, text in zip(arrays["caption_images"], arrays["captions"].tobytes().decode().split("\n"), strict=True):
        captions[image].append(text)
    return captions


def split_groups(opened: PreparedData, cache_dir: Path) -> dict[str, np.ndarray]:
    """The group of each image, by split; images in a group share a caption or look nearly the same. Computed once."""
    arrays = opened.load()
    stored = cached_arrays(
        "lit-groups", opened.fingerprint, cache_dir, lambda: {"groups": groups(arrays["images"], _captions(arrays))}
    )
    group = stored.load()["groups"]
    return {name: np.array(group[arrays["splits"] == number]) for number, name in enumerate(SPLITS)}


def zero_shot_splits(opened: PreparedData | StoredSet, val_size: int) -> dict[str, ZeroShotSplit]:
    """Those of val and test that the set has; for an array set, val is the last ``val_size`` training images, as in
    image classification.
    """
    if isinstance(opened, StoredSet):
        return {
            name: ZeroShotSplit(StoredTensors(split), split.labels, split.class_names, f"{opened.fingerprint}/{name}")
            for name, split in opened.splits.items()
        }
    arrays = opened.load()
    images, labels = arrays["train_images"], arrays["train_labels"]
    if val_size:
        check_order(labels, "zero_shot")
    if not 0 <= val_size <= len(images):
        raise ConfigError(f"data.zero_shot has val_size={val_size}, but there are {len(images)} training images.")
    val, test = np.arange(len(images) - val_size, len(images)), np.arange(len(arrays["test_images"]))
    of_test = ArrayImages(arrays["test_images"], test)
    splits = {"test": ZeroShotSplit(of_test, arrays["test_labels"], None, f"{opened.fingerprint}/test")}
    if val_size:
        name = f"{opened.fingerprint}/val/{val_size}"
        splits["val"] = ZeroShotSplit(ArrayImages(images, val), labels[val], None, name)
    return splits


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
    from scipy.sparse import coo_array  # here, because only a set's first run needs them
    from scipy.sparse.csgraph import connected_components

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
    of_image = np.array([percent[number] for number in group])
    return np.where(of_image < HELD_OUT_PERCENT, 1, np.where(of_image < 2 * HELD_OUT_PERCENT, 2, 0)).astype(np.uint8)
