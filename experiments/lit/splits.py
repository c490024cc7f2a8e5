"""The splits of opened sets, which are arrays or stored files: images with captions, and images with labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from experiments.data.labels import check_order
from experiments.data.stored import StoredSet, StoredSplit
from experiments.harness.errors import ConfigError
from experiments.harness.prepared_data import PreparedData, cached_arrays
from experiments.lit.pair_arrays import SPLITS, groups


class Images(Protocol):
    """Images by index."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, number: int) -> Tensor:
        """uint8 [3, height, width]; sizes may differ."""


class ArrayImages:
    """Some rows of an array uint8 [images, height, width, 3]."""

    def __init__(self, images: np.ndarray, rows: np.ndarray) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Tensor:
        return torch.tensor(self._images[self._rows[number]]).movedim(-1, 0)  # copies, since the arrays are read-only


class StoredImages:
    """The images of a stored split."""

    def __init__(self, split: StoredSplit) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, number: int) -> Tensor:
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
class Labelled:
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
            name: Pairs(StoredImages(split), split.captions, f"{opened.fingerprint}/{name}")
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


def labelled_splits(opened: PreparedData | StoredSet, val_size: int) -> dict[str, Labelled]:
    """Those of val and test that the set has; for an array set, val is the last ``val_size`` training images, as in
    image classification.
    """
    if isinstance(opened, StoredSet):
        return {
            name: Labelled(StoredImages(split), split.labels, split.class_names, f"{opened.fingerprint}/{name}")
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
    splits = {"test": Labelled(of_test, arrays["test_labels"], None, f"{opened.fingerprint}/test")}
    if val_size:
        name = f"{opened.fingerprint}/val/{val_size}"
        splits["val"] = Labelled(ArrayImages(images, val), labels[val], None, name)
    return splits
