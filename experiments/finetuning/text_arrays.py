"""Labelled texts as arrays, and their leak-free split into train, val and test.

texts   uint8: all texts in UTF-8, separated by newlines
labels  int64 [texts]
splits  uint8 [texts]: 0 train, 1 val, 2 test
groups  int64 [texts]: texts of the same group are in the same split
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.text import folded

SPLITS = ("train", "val", "test")
VAL_PERCENT = 15
TEST_PERCENT = 25
"""per cent of the groups"""


@dataclass(frozen=True)
class LabelledTexts:
    """One split."""

    texts: list[str]
    labels: np.ndarray
    """int64 [texts]"""
    groups: np.ndarray
    """int64 [texts]"""


def text_arrays(
    texts: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    splits: Sequence[str] | None = None,
    draws_val: bool = False,
) -> dict[str, np.ndarray]:
    """The arrays for texts that each belong to a group, such as the film that they are about.

    A hash of the group's name decides the split. If ``splits`` are given, they are used instead, and with ``draws_val``
    the hash only takes val out of train. Of texts that are equal by experiments/data/text.py only the first is kept, so
    that none is in two splits. Raises ValueError for a text without visible characters.
    """
    first: dict[str, int] = {}
    flat = [" ".join(text.split()) for text in texts]
    for number, text in enumerate(flat):
        if not folded(text):
            raise ValueError(f"text {number} (of the group {groups[number]!r}) is empty")
        first.setdefault(folded(text), number)
    kept = sorted(first.values())
    number_of = {group: number for number, group in enumerate(dict.fromkeys(groups[row] for row in kept))}
    return {
        "texts": np.frombuffer("\n".join(flat[number] for number in kept).encode(), np.uint8),
        "labels": np.array([labels[number] for number in kept], np.int64),
        "splits": np.array(
            [_split(groups[row], splits[row] if splits is not None else None, draws_val) for row in kept], np.uint8
        ),
        "groups": np.array([number_of[groups[number]] for number in kept], np.int64),
    }


def _split(group: str, own: str | None, draws_val: bool) -> int:
    percent = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % 100
    if own is not None:
        return 1 if own == "train" and draws_val and percent < VAL_PERCENT else SPLITS.index(own)
    return 1 if percent < VAL_PERCENT else 2 if percent < VAL_PERCENT + TEST_PERCENT else 0


def labelled_splits(arrays: Mapping[str, np.ndarray]) -> dict[str, LabelledTexts]:
    """Train, val and test."""
    texts = arrays["texts"].tobytes().decode().split("\n")
    splits = {}
    for number, name in enumerate(SPLITS):
        rows = np.nonzero(arrays["splits"] == number)[0]
        labels, groups = (np.array(arrays[key][rows]) for key in ("labels", "groups"))
        splits[name] = LabelledTexts([texts[row] for row in rows], labels, groups)
    return splits
