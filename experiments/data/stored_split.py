"""The rows of a split of stored.py: encoded images, decoded when they are asked for, with their labels or captions."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.pixels import decode_rgb, is_image
from experiments.harness.errors import DataError

log = logging.getLogger(__name__)

MOST_DAMAGED = {100: 0.01, 10: 0.5}
"""Largest share of damaged images in a usable set, once a process has met this many among those it has decoded."""
HASHED_BYTES = 2**28
"""Up to this size, a split's fingerprint covers the images' content, above it only their lengths (ImageNet: 150 GB)."""
NO_LABELS = np.zeros(0, np.int64)


@dataclass
class StoredSplit:
    """Encoded images with their labels or captions, by row."""

    name: str
    table: Any
    """a ``datasets.Dataset`` with one column, of {bytes, path}"""
    rows: np.ndarray
    """int64 [rows]: their row numbers in the source, for messages"""
    lengths: np.ndarray
    """int64 [rows]: bytes of each encoded image"""
    labels: np.ndarray = field(default_factory=lambda: NO_LABELS)
    """int64 [rows]; empty for pairs"""
    class_names: tuple[str, ...] | None = None
    """by class number, if the set has names"""
    captions: list[list[str]] = field(default_factory=list)
    """of each row; empty for a labelled set"""
    decoded: int = field(default=0, init=False)
    damaged: int = field(default=0, init=False)
    """decodings of damaged images, like ``decoded`` in this process"""
    told: set[int] = field(default_factory=set, init=False)
    """damaged rows that a warning has named"""

    def __len__(self) -> int:
        return len(self.table)

    def file_names(self) -> list[str]:
        """The file name of each row, without its folder; empty if it has none."""
        import pyarrow.compute as pc

        rows = self.table.with_format("arrow")  # slices are lazy, so no image is read
        blocks = (rows[start : start + 1000].column(0) for start in range(0, len(self), 1000))
        paths = (pc.struct_field(chunk, "path").to_pylist() for block in blocks for chunk in block.chunks)
        return [Path(path or "").name for own in paths for path in own]

    def encoded(self, row: int) -> bytes:
        """The encoded file of a row."""
        (stored,) = self.table[int(row)].values()
        return _content(stored)

    def image(self, row: int) -> Image.Image:
        """The image of a row in RGB. So as not to end a long run, a damaged one is decoded as far as possible, counted
        and named in one warning. Raises DataError if there are many of them, or if the pixels are not colours.
        """
        try:
            image, whole = decode_rgb(self.encoded(row))
        except DataError as fault:
            raise DataError(f"{self.where(row)} cannot be used: {fault}") from fault
        self.decoded += 1
        if not whole:
            self.damaged += 1
            if row not in self.told:
                self.told.add(int(row))
                where, number = self.where(row), len(self.told)
                log.warning("%s is damaged and decoded as far as possible; number %d in this process", where, number)
            if any(self.damaged >= met and self.damaged > most * self.decoded for met, most in MOST_DAMAGED.items()):
                raise DataError(
                    f"{self.damaged} of {self.decoded} images are damaged, the last being {self.where(row)}: download "
                    "the data set again, or correct the columns image and label in its config."
                )
        return image

    def where(self, row: int) -> str:
        """How messages refer to a row."""
        (stored,) = self.table[int(row)].values()
        return f"row {self.rows[row]} of {self.name} ({Path(stored['path'] or 'no name').name})"

    def fingerprint(self) -> str:
        """SHA-256 over the number of rows, their labels or captions, the encoded lengths and, for a split of at most
        HASHED_BYTES, the images, in order. Raises DataError for a file among these that is not an image. In a larger
        split, where checking would take hours, and in a table, whose rows a user cannot remove, it counts as damaged.
        """
        digest = hashlib.sha256(json.dumps([len(self), self.captions, self.class_names]).encode())
        digest.update(self.labels.astype("<i8").tobytes() + self.lengths.astype("<i8").tobytes())
        if self.lengths.sum() <= HASHED_BYTES:
            for row in range(len(self)):
                (stored,) = self.table[row].values()
                encoded = _content(stored)
                if stored["bytes"] is None and not is_image(encoded):
                    raise DataError(f"{stored['path']} is not an image, despite its name: remove or replace it.")
                digest.update(encoded)
        return digest.hexdigest()

    def chosen(self, rows: Sequence[int]) -> "StoredSplit":
        """The rows with these indices, in this order."""
        return replace(
            self,
            table=self.table.select(rows),
            rows=self.rows[list(rows)],
            lengths=self.lengths[list(rows)],
            labels=self.labels[list(rows)] if len(self.labels) else self.labels,
            captions=[self.captions[row] for row in rows] if self.captions else [],
        )


def _content(stored: Mapping[str, Any]) -> bytes:
    content: bytes = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
    return content
