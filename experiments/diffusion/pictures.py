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
from experiments.data.sample import sample
from experiments.data.stored import StoredSet, StoredSplit, check_splits
from experiments.harness.errors import ConfigError
from experiments.harness.prepared_data import PreparedData
from experiments.harness.seeds import derive_seed

SPLITS = {"train": "fit", "val": "val", "test": "test"}
"""Our names for a set's splits"""


@dataclass(frozen=True)
class Pictures:
    """Images by index, and the class (int64 [images]) or the caption of each."""

    picture: Callable[[int], Image.Image]
    conditions: np.ndarray | list[str]

    def __len__(self) -> int:
        return len(self.conditions)

    def __getitem__(self, number: int) -> Image.Image:
        return self.picture(number)

    def pixels(self, numbers: np.ndarray, size: int) -> Tensor:
        """The central squares of the images, uint8 ``[N, 3, size, size]``."""
        return torch.from_numpy(np.stack([centre(self.picture(int(number)), size) for number in numbers])).movedim(3, 1)


def centre(picture: Image.Image, size: int) -> np.ndarray:
    """The central square at ``size`` pixels, uint8 ``[size, size, 3]``, as in Dhariwal and Nichol 2021: halved by
    averaging while at least twice as large as needed, then resized (bicubic) and cropped.
    """
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    if min(picture.size) != size:
        scale = size / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def labelled_splits(
    opened: PreparedData | StoredSet, val_size: int, name: str = "images", seed: int | None = None
) -> dict[str, Pictures]:
    """fit, val and test of a labelled set. ``val_size`` training images are held out, drawn by ``seed``. Without a
    seed, they are the last ones of an array set, which is sorted by a hash of its content, or a fixed random choice of
    stored files.
    """
    if isinstance(opened, StoredSet):
        check_splits(opened.splits, ("train", "test"), name)
        train, test = opened.splits["train"], opened.splits["test"]
        rows = _shuffled(len(train), seed)
        kept, drawn = _kept(len(rows), val_size), sample(len(test), len(test))

        def of_train(own: np.ndarray) -> Pictures:
            return Pictures(lambda number: train.picture(own[number]), train.labels[own])

        return {
            "fit": of_train(rows[:kept]),
            "val": of_train(rows[kept:]),
            "test": Pictures(lambda number: test.picture(drawn[number]), test.labels[drawn]),
        }
    arrays = opened.load()
    images, labels = arrays["train_images"], arrays["train_labels"]
    check_order(labels, name)
    kept = _kept(len(images), val_size)
    rows = np.arange(len(images)) if seed is None else _shuffled(len(images), seed)
    test_labels = arrays["test_labels"]
    return {
        "fit": _array_pictures(images, labels, rows[:kept]),
        "val": _array_pictures(images, labels, rows[kept:]),
        "test": _array_pictures(arrays["test_images"], test_labels, np.arange(len(test_labels))),
    }


def captioned_splits(opened: PreparedData | StoredSet) -> dict[str, Pictures]:
    """fit, val and test of pairs, each image with its first caption: arrays as in experiments/lit/pair_arrays.py, or
    stored files.
    """
    if isinstance(opened, StoredSet):
        check_splits(opened.splits, tuple(SPLITS), "images")
        return {name: _captioned(opened.splits[theirs]) for theirs, name in SPLITS.items()}
    arrays = opened.load()
    texts = arrays["captions"].tobytes().decode().split("\n")
    firsts = np.unique(arrays["caption_images"], return_index=True)[1]

    def split(number: int) -> Pictures:
        rows = np.nonzero(arrays["splits"] == number)[0]
        rows = rows[sample(len(rows), len(rows))]
        captions = [texts[firsts[row]] for row in rows]
        return Pictures(lambda place: Image.fromarray(arrays["images"][rows[place]]), captions)

    return {name: split(number) for number, name in enumerate(SPLITS.values())}


def _captioned(split: StoredSplit) -> Pictures:
    drawn = sample(len(split), len(split))
    captions = [split.captions[row][0] for row in drawn]
    return Pictures(lambda number: split.picture(drawn[number]), captions)


def _array_pictures(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Pictures:
    return Pictures(lambda number: Image.fromarray(images[rows[number]]), labels[rows])


def _shuffled(rows: int, seed: int | None) -> np.ndarray:
    name = ("validation split",) if seed is None else ("validation split", seed)
    return np.random.default_rng(derive_seed(*name)).permutation(rows)


def _kept(training_images: int, val_size: int) -> int:
    if not 0 < val_size < training_images:
        raise ConfigError(
            f"data.images.val_size={val_size} must be above 0 and leave some of the {training_images} training images."
        )
    return training_images - val_size
