"""What a diffusion run reads: images with their conditions, and weights. ``open_sets`` is its data.access.

fit    the images that training batches are drawn from, and that generated images are compared with
train  the first ``flatness.samples`` of these, for evaluation
val    images of the training split that are not trained on
test

All are in an order unrelated to their content, so the first n are a random sample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from experiments.data.images import ArrayImages, StoredImages, arrays_of_size
from experiments.data.labels import check_order
from experiments.data.splits import num_kept, sample, shuffled
from experiments.data.stored import StoredSet, check_splits
from experiments.data.stored_split import StoredSplit
from experiments.harness.prepared_data import PreparedData, joint_fingerprint, open_set, prepare

if TYPE_CHECKING:
    from torch import Tensor


SPLITS = {"train": "fit", "val": "val", "test": "test"}
"""Our names for a set's splits"""


@dataclass(frozen=True)
class DiffusionSets:
    """The opened data of diffusion's config group ``data``."""

    images: PreparedData | StoredSet
    weights: Mapping[str, PreparedData]
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of all of these"""


def open_sets(data: Mapping[str, Any], cache_dir: Path) -> DiffusionSets:
    """Open, and if necessary download, the images and the weights, each with its own ``access``."""
    images = open_set(data["images"], cache_dir)
    weights = {name: prepare(one, cache_dir) for name, one in data["weights"].items()}
    parts = {"images": images.fingerprint, **{name: one.fingerprint for name, one in weights.items()}}
    return DiffusionSets(images, weights, cache_dir, joint_fingerprint(parts))


@dataclass(frozen=True)
class ConditionedImages:
    """Images by index, and the class (int64 [images]) or the caption of each."""

    images: ArrayImages | StoredImages
    conditions: np.ndarray | list[str]

    def __len__(self) -> int:
        return len(self.conditions)

    def stacked(self, size: int) -> "Callable[[np.ndarray], Tensor] | None":
        """What makes ``pixels`` of decoded images, many at once; None for images that are made one by one."""
        if own := arrays_of_size(self.images, size):
            return own.stacked
        if twice := arrays_of_size(self.images, 2 * size):
            return lambda numbers: halved(twice.stacked(numbers))
        return None

    def pixels(self, numbers: np.ndarray, size: int) -> "Tensor":
        """The central squares of the images, uint8 ``[N, 3, size, size]``."""
        import torch  # here, because a study opens data without it

        if stacked := self.stacked(size):
            return stacked(numbers)
        return torch.from_numpy(np.stack([centre(self._image(number), size) for number in numbers])).movedim(3, 1)

    def _image(self, number: int) -> Image.Image:
        if isinstance(self.images, ArrayImages):
            return Image.fromarray(self.images.images[self.images.rows[number]])
        return self.images[number]


def halved(images: "Tensor") -> "Tensor":
    """Images, uint8 ``[N, 3, H, W]``, at half their height and width: the bytes that ``centre`` makes, in a quarter of
    the time.
    """
    wide = images.short()
    rows = (wide[..., ::2] + wide[..., 1::2] + 1) // 2
    return ((rows[..., ::2, :] + rows[..., 1::2, :] + 1) // 2).byte()


def flipped(images: "Tensor", where: "Tensor") -> "Tensor":
    """Images ``[N, C, H, W]``, mirrored ``where`` (bool ``[N]``) says so."""
    import torch

    return torch.where(where[:, None, None, None], images.flip(3), images)


def centre(image: Image.Image, size: int) -> np.ndarray:
    """The central square at ``size`` pixels, uint8 ``[size, size, 3]``, as in Dhariwal and Nichol 2021: halved by
    averaging while at least twice as large as needed, then resized (bicubic) and cropped.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    if min(image.size) != size:
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def class_splits(
    opened: PreparedData | StoredSet, val_size: int, name: str = "images", seed: int | None = None
) -> dict[str, ConditionedImages]:
    """fit, val and test of a labelled set. ``val_size`` training images are held out, drawn by ``seed``. Without a
    seed, they are the last ones of an array set, which is sorted by a hash of its content, or a fixed random choice of
    stored files.
    """
    if isinstance(opened, StoredSet):
        check_splits(opened.splits, ("train", "test"), name)
        train, test = opened.splits["train"], opened.splits["test"]
        rows = shuffled(len(train), seed)
        kept, drawn = num_kept(len(rows), val_size, "data.images.val_size"), sample(len(test), len(test))
        parts = {"fit": (train, rows[:kept]), "val": (train, rows[kept:]), "test": (test, drawn)}
        return {
            name: ConditionedImages(StoredImages(split, own), split.labels[own]) for name, (split, own) in parts.items()
        }
    arrays = opened.load()
    images, labels = arrays["train_images"], arrays["train_labels"]
    check_order(labels, name)
    kept = num_kept(len(images), val_size, "data.images.val_size")
    rows = np.arange(len(images)) if seed is None else shuffled(len(images), seed)
    test_labels = arrays["test_labels"]
    return {
        "fit": ConditionedImages(ArrayImages(images, rows[:kept]), labels[rows[:kept]]),
        "val": ConditionedImages(ArrayImages(images, rows[kept:]), labels[rows[kept:]]),
        "test": ConditionedImages(ArrayImages(arrays["test_images"], np.arange(len(test_labels))), test_labels),
    }


def captioned_splits(opened: PreparedData | StoredSet) -> dict[str, ConditionedImages]:
    """fit, val and test of pairs, each image with its first caption: arrays as in experiments/lit/data.py, or
    stored files.
    """
    if isinstance(opened, StoredSet):
        check_splits(opened.splits, tuple(SPLITS), "images")
        return {name: _captioned(opened.splits[theirs]) for theirs, name in SPLITS.items()}
    arrays = opened.load()
    texts = arrays["captions"].tobytes().decode().split("\n")
    firsts = np.unique(arrays["caption_images"], return_index=True)[1]

    def split(number: int) -> ConditionedImages:
        rows = np.nonzero(arrays["splits"] == number)[0]
        rows = rows[sample(len(rows), len(rows))]
        captions = [texts[firsts[row]] for row in rows]
        return ConditionedImages(ArrayImages(arrays["images"], rows), captions)

    return {name: split(number) for number, name in enumerate(SPLITS.values())}


def _captioned(split: StoredSplit) -> ConditionedImages:
    drawn = sample(len(split), len(split))
    captions = [split.captions[row][0] for row in drawn]
    return ConditionedImages(StoredImages(split, drawn), captions)
