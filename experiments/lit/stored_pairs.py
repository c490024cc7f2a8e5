"""Pairs and labelled pictures too large to decode beforehand: encoded files in the tables of ``datasets``.

A place says where and how (``kind`` hub with repo and revision, or local with path; perhaps ``files``, a pattern):

    splits    what is read, as ``datasets`` names it: {train: train, val: "validation[:5000]"}
    image     the column of pictures
    caption   the column of captions: a text, one caption a line, or a list of texts. What is held out loses the rows
              that share a caption with the training split
    label     instead of captions: the column of class numbers
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.harness.encoded_image import decode_rgb
from experiments.harness.errors import DataError

log = logging.getLogger(__name__)

_KEYS = {"hub": {"repo", "revision"}, "local": {"path"}}


@dataclass(frozen=True)
class StoredSplit:
    """Pictures by row, each with its captions, or with its label."""

    pictures: Any
    """a ``datasets.Dataset`` with the one column ``column``, of {bytes, path}"""
    column: str
    captions: list[list[str]]
    """of each row; empty lists in a labelled set"""
    labels: np.ndarray
    """int64 [rows]; in a set of pairs empty"""

    def picture(self, row: int) -> Image.Image:
        """In RGB, an animated one's first frame; what is damaged is grey, and a warning names it."""
        stored = self.pictures[int(row)][self.column]
        content = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
        picture, whole = decode_rgb(content)
        if not whole:
            log.warning("the picture %s of row %d is damaged: the rest of it is grey", stored["path"], row)
        return picture


@dataclass(frozen=True)
class StoredSet:
    """Splits by name (train, val, test), and what tells their content."""

    splits: Mapping[str, StoredSplit]
    fingerprint: str


def open_stored(data: Mapping[str, Any], cache_dir: Path) -> StoredSet:
    """The set that ``data`` declares, from the first of its places that has it.

    Its fingerprint is over captions and labels, in order. ``cache_dir`` stays unused: ``datasets`` has a cache.
    """
    reasons = []
    for place in data["places"]:
        try:
            splits = _open_place(place)
        except Exception as error:  # the library, its file systems and its HTTP client each raise their own
            first_line = (str(error).strip().splitlines() or [""])[0]
            reasons.append(f"  {place.get('repo') or place.get('path')}: {type(error).__name__}: {first_line}")
        else:
            return _checked(data, StoredSet(splits, _fingerprint(splits)))
    raise DataError("\n".join([f"data={data['name']} cannot be opened, because each of its places failed.", *reasons]))


def _checked(data: Mapping[str, Any], opened: StoredSet) -> StoredSet:
    if data.get("fingerprint") not in (None, opened.fingerprint):
        raise DataError(
            f"data={data['name']} has the fingerprint {opened.fingerprint} here, but its config declares "
            f"{data['fingerprint']}; another version, or another order of rows, is another config."
        )
    return opened


def _open_place(place: Mapping[str, Any]) -> dict[str, StoredSplit]:
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    if missing := sorted((_KEYS.get(place["kind"], set()) | {"splits", "image"}) - set(place)):
        raise DataError(f"a place lacks the key {', '.join(missing)}.")
    if place["kind"] == "hub":
        where = {"path": place["repo"], "revision": place["revision"]}
    else:
        where = {"path": str(Path(place["path"]).expanduser().absolute())}
    # The library would compare with the whole repository, of which ``files`` may be a part.
    loaded = datasets.load_dataset(
        **where, data_files=place.get("files"), split=list(place["splits"].values()), verification_mode="no_checks"
    )
    splits = {name: _split(rows, place) for name, rows in zip(place["splits"], loaded, strict=True)}
    if "train" in splits:
        seen = {_normal(text) for texts in splits["train"].captions for text in texts}
        splits |= {name: _unseen(split, seen) for name, split in splits.items() if name != "train"}
    return splits


def _split(rows: Any, place: Mapping[str, Any]) -> StoredSplit:
    import datasets

    column = place["image"]
    pictures = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if "label" in place:
        labels = np.array(rows[place["label"]][:], np.int64)
        return StoredSplit(pictures, column, [[] for _ in labels], labels)
    texts = rows[place["caption"]][:]
    lines = [text.splitlines() if isinstance(text, str) else text or [] for text in texts]
    captions = [[line for line in own if line.strip()] for own in lines]
    split = StoredSplit(pictures, column, captions, np.zeros(0, np.int64))
    captioned = [row for row, own in enumerate(captions) if own]
    if len(captioned) == len(captions):
        return split
    log.warning("%d of %d rows have no caption and are left out", len(captions) - len(captioned), len(captions))
    return _chosen(split, captioned)


def _unseen(split: StoredSplit, seen: set[str]) -> StoredSplit:
    rows = [row for row, texts in enumerate(split.captions) if not any(_normal(text) in seen for text in texts)]
    return _chosen(split, rows)


def _chosen(split: StoredSplit, rows: list[int]) -> StoredSplit:
    return replace(split, pictures=split.pictures.select(rows), captions=[split.captions[row] for row in rows])


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _fingerprint(splits: Mapping[str, StoredSplit]) -> str:
    digest = hashlib.sha256()
    for name, split in sorted(splits.items()):
        digest.update(repr((name, split.captions)).encode() + split.labels.astype("<i8").tobytes())
    return digest.hexdigest()
