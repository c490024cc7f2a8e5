"""Check whether held-out images or texts are also in the training set, for all tasks, and report what was found.

It finds identical images, and images of the same size that look re-encoded: their thumbnails differ little and their
brightness is correlated. Cropped, resized or rotated copies are not found.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import to_pil_image

from experiments.data.images import Images
from experiments.data.pixels import UNREADABLE
from experiments.data.text import folded
from experiments.harness.batches import ShieldedLoader
from experiments.harness.errors import DataError
from experiments.harness.prepared_data import cached_arrays

log = logging.getLogger(__name__)

MOST_COPIES = 0.1
"""Share of copies in a held-out split above which its metric says nothing about new data. CIFAR-10 has none."""
MOST_IMAGES = 2_000_000
"""The largest training set that is searched; for larger ones this would take hours."""
THUMBNAIL = 4
DIGEST_BYTES = 16
ALIKE = 3.0
"""Root mean square difference of two thumbnails, in levels of 255, up to which the full images are compared"""
SAME_CORRELATION = 0.7
BLOCK = 256
TRAIN_BLOCK = 65_536


def warn_of_copies(
    name: str, train: Images, held_out: Mapping[str, Images], identity: str, cache_dir: Path, num_workers: int = 0
) -> None:
    """Warn about images of each held-out split that are also in ``train``; above MOST_COPIES this is a DataError. The
    result is computed once and cached under ``identity``, which must identify the images.
    """
    if len(train) > MOST_IMAGES:
        log.info("data=%s: its %d training images are too many to look for copies of test images", name, len(train))
        return
    sizes = [len(train), *(len(split) for split in held_out.values())]
    found = cached_arrays(
        "copies",
        json.dumps(["equal or alike", identity, sizes, list(held_out)]),
        cache_dir,
        lambda: _find(train, held_out, num_workers),
    ).load()
    for split, originals in found.items():
        copies = np.flatnonzero(originals >= 0).tolist()
        _say(name, split, copies, len(originals), "images", MOST_COPIES, lambda number, own=originals: int(own[number]))


def warn_of_same_texts(
    name: str, train: Iterable[str], held_out: Mapping[str, Sequence[str]], most: float = MOST_COPIES
) -> None:
    """The same for texts, which are equal if their folded forms (text.py) are; more than ``most`` is a DataError."""
    first: dict[str, int] = {}
    for number, text in enumerate(train):
        first.setdefault(folded(text), number)
    for split, texts in held_out.items():
        copies = [number for number, text in enumerate(texts) if folded(text) in first]
        _say(name, split, copies, len(texts), "texts", most, lambda number, own=texts: first[folded(own[number])])


def _say(name: str, split: str, copies: list[int], count: int, what: str, most: float, original: Any) -> None:
    if not copies:
        return
    found = (
        f"data={name}: {len(copies)} of the {count} {what} in {split} are also in the training set, such as number "
        f"{copies[0]}, which is number {original(copies[0])} there"
    )
    if len(copies) > most * count:
        raise DataError(
            f"{found}: metrics on {split} say nothing about new data. Remove the copies from one of the two."
        )
    log.warning("%s", found)


def _find(train: Images, held_out: Mapping[str, Images], num_workers: int) -> dict[str, np.ndarray]:
    """For each held-out image, the index of the training image of which it is a copy, or -1, int64 [images]."""
    own = _looks(train, num_workers)
    return {split: _originals(images, _looks(images, num_workers), train, own) for split, images in held_out.items()}


@dataclass(frozen=True)
class _Looks:
    thumbnails: torch.Tensor
    """uint8 [images, 3 * THUMBNAIL**2]"""
    digests: list[bytes]
    """of the size and all pixels of each image"""


def _originals(images: Images, looks: _Looks, train: Images, own: _Looks) -> np.ndarray:
    first_with: dict[bytes, int] = {}
    for number, digest in enumerate(own.digests):
        first_with.setdefault(digest, number)
    first_with.pop(_digest(np.asarray(UNREADABLE)), None)
    originals = np.array([first_with.get(digest, -1) for digest in looks.digests], np.int64)
    for start in range(0, len(images), BLOCK):
        queries = looks.thumbnails[start : start + BLOCK].float() - 128
        best, nearest = torch.full((len(queries),), torch.inf), torch.zeros(len(queries), dtype=torch.int64)
        for first in range(0, len(train), TRAIN_BLOCK):
            keys = own.thumbnails[first : first + TRAIN_BLOCK].float() - 128
            distances = torch.cdist(queries, keys)
            values, places = distances.min(1)
            nearest = torch.where(values < best, places + first, nearest)
            best = torch.minimum(values, best)
        alike = torch.nonzero(best <= ALIKE * queries.shape[1] ** 0.5).flatten().tolist()
        for place in alike:
            if originals[start + place] < 0 and _alike(images[start + place], train[int(nearest[place])]):
                originals[start + place] = nearest[place]
    return originals


def _alike(first: Any, second: Any) -> bool:
    one, two = _image(first), _image(second)
    if one.size != two.size:
        return False
    grey = [np.asarray(image.convert("L"), np.float64).ravel() for image in (one, two)]
    deviations = [values - values.mean() for values in grey]
    norm = np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    return bool(norm > 0 and deviations[0] @ deviations[1] >= SAME_CORRELATION * norm)


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(f"{pixels.shape}".encode() + pixels.tobytes(), digest_size=DIGEST_BYTES).digest()


def _image(image: Any) -> Any:
    return to_pil_image(image) if isinstance(image, torch.Tensor) else image


@dataclass(frozen=True)
class _Blocks(Dataset[dict[str, torch.Tensor]]):
    images: Images

    def __getitem__(self, start: int) -> dict[str, torch.Tensor]:
        numbers = range(start, min(start + BLOCK, len(self.images)))
        rows = []
        for number in numbers:
            image = _image(self.images[number]).convert("RGB")
            thumbnail = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()
            rows.append(np.concatenate([thumbnail, np.frombuffer(_digest(np.asarray(image)), np.uint8)]))
        return {"rows": torch.from_numpy(np.stack(rows))}


def _looks(images: Images, num_workers: int) -> _Looks:
    starts = range(0, len(images), BLOCK)
    with ShieldedLoader(_Blocks(images), starts, num_workers, pin=False).reading() as read:
        blocks = [block["rows"] for block in read]
    rows = torch.cat([torch.zeros(0, 3 * THUMBNAIL**2 + DIGEST_BYTES, dtype=torch.uint8), *blocks])
    return _Looks(rows[:, :-DIGEST_BYTES], [row.tobytes() for row in rows[:, -DIGEST_BYTES:].numpy()])
