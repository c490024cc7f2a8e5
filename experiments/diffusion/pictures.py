"""Images at one resolution with their conditions: the splits of a data set.

fit    the images that training batches are drawn from, and that generated images are compared with
train  the first ``flatness.samples`` of these, for evaluation
val    images of the training split that are not trained on
test

All are in an order unrelated to their content, so the first n are a random sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.data.labels import check_order
from experiments.data.splits import sample
from experiments.data.stored import StoredSet, StoredSplit, check_splits
from experiments.harness.errors import ConfigError
from experiments.harness.prepared_data import PreparedData
from experiments.harness.seeds import derive_seed

SPLITS = {"train": "fit", "val": "val", "test": "test"}
"""Our names for a set's splits"""


@dataclass(frozen=True)
class Images:
    """Images by index, and the class (int64 [images]) or the caption of each."""

    image: Callable[[int], Image.Image]
    conditions: np.ndarray | list[str]

    def __len__(self) -> int:
        return len(self.conditions)

    def __getitem__(self, number: int) -> Image.Image:
        return self.image(number)

    def pixels(self, numbers: np.ndarray, size: int) -> Tensor:
        """The central squares of the images, uint8 ``[N, 3, size, size]``."""
        return torch.from_numpy(np.stack([centre(self.image(int(number)), size) for number in numbers])).movedim(3, 1)


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


def labelled_splits(
    opened: PreparedData | StoredSet, val_size: int, name: str = "images", seed: int | None = None
) -> dict[str, Images]:
    """fit, val and test of a labelled set. ``val_size`` training images are held out, drawn by ``seed``. Without a
    seed, they are the last ones of an array set, which is sorted by a hash of its content, or a fixed random choice of
    stored files.
    """
    if isinstance(opened, StoredSet):
        check_splits(opened.splits, ("train", "test"), name)
        train, test = opened.splits["train"], opened.splits["test"]
        rows = _shuffled(len(train), seed)
        kept, drawn = _kept(len(rows), val_size), sample(len(test), len(test))

        def of_train(own: np.ndarray) -> Images:
            return Images(lambda number: train.image(own[number]), train.labels[own])

        return {
            "fit": of_train(rows[:kept]),
            "val": of_train(rows[kept:]),
            "test": Images(lambda number: test.image(drawn[number]), test.labels[drawn]),
        }
    arrays = opened.load()
    images, labels = arrays["train_images"], arrays["train_labels"]
    check_order(labels, name)
    kept = _kept(len(images), val_size)
    rows = np.arange(len(images)) if seed is None else _shuffled(len(images), seed)
    test_labels = arrays["test_labels"]
    return {
        "fit": _array_images(images, labels, rows[:kept]),
        "val": _array_images(images, labels, rows[kept:]),
        "test": _array_images(arrays["test_images"], test_labels, np.arange(len(test_labels))),
    }


def captioned_splits(opened: PreparedData | StoredSet) -> dict[str, Images]:
    """fit, val and test of pairs, each image with its first caption: arrays as in experiments/lit/data.py, or
    stored files.
    """
    if isinstance(opened, StoredSet):
        check_splits(opened.splits, tuple(SPLITS), "images")
        return {name: _captioned(opened.splits[theirs]) for theirs, name in SPLITS.items()}
    arrays = opened.load()
    texts = arrays["captions"].tobytes().decode().split("\n")
    firsts = np.unique(arrays["caption_images"], return_index=True)[1]

    def split(number: int) -> Images:
        rows = np.nonzero(arrays["splits"] == number)[0]
        rows = rows[sample(len(rows), len(rows))]
        captions = [texts[firsts[row]] for row in rows]
        return Images(lambda place: Image.fromarray(arrays["images"][rows[place]]), captions)

    return {name: split(number) for number, name in enumerate(SPLITS.values())}


def _captioned(split: StoredSplit) -> Images:
    drawn = sample(len(split), len(split))
    captions = [split.captions[row][0] for row in drawn]
    return Images(lambda number: split.image(drawn[number]), captions)


def _array_images(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Images:
    return Images(lambda number: Image.fromarray(images[rows[number]]), labels[rows])


def _shuffled(rows: int, seed: int | None) -> np.ndarray:
    name = ("validation split",) if seed is None else ("validation split", seed)
    return np.random.default_rng(derive_seed(*name)).permutation(rows)


def _kept(training_images: int, val_size: int) -> int:
    if not 0 < val_size < training_images:
        raise ConfigError(
            f"data.images.val_size={val_size} must be above 0 and leave some of the {training_images} training images."
        )
    return training_images - val_size
