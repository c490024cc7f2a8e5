"""Image sets too large to decode beforehand: encoded files in Arrow tables on disk, decoded when a batch needs them.

``datasets`` fetches a set once and maps its tables into memory, so every row of every shard is in reach by its number
and a batch stays a function of (seed, step): nothing is streamed, nothing is shuffled in a buffer. A config lists
places, alternatives for the same content, tried in order:

    kind             hub (with repo, revision) or local (with path: a folder in any layout that ``datasets`` knows, such
                     as parquet files, tar archives in WebDataset form, or a folder of files for each class)
    files            only these files of it
    splits           the place's name of each split that is read: {train: train, test: validation}
    image, label     the columns; a label is a class number, or a text ``.../<class number>/<name>``
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.harness.encoded_image import decode_rgb
from experiments.harness.errors import DataError

log = logging.getLogger(__name__)

_KEYS = {"hub": {"repo", "revision"}, "local": {"path"}}
_COMMON_KEYS = {"kind", "splits", "image", "label"}
MOST_DAMAGED_SHARE = 0.01
"""Of all pictures decoded by a process, once it has met 100 damaged ones: more means that the set is not usable."""


@dataclass
class StoredSplit:
    """Encoded pictures and their labels, by row number."""

    name: str
    table: Any
    """a ``datasets.Dataset`` with one column, of {bytes, path}"""
    labels: np.ndarray
    """int64 [rows]"""
    decoded: int = field(default=0, init=False)
    damaged: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.labels)

    def file_names(self) -> list[str]:
        """The name under which each row was stored, without its folder; empty where there was none."""
        return [Path(path or "").name for chunk in _struct_fields(self.table, "path") for path in chunk.to_pylist()]

    def encoded_bytes(self) -> np.ndarray:
        """Length of each encoded picture, int64 [rows]."""
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        lengths = []
        contents, paths = _struct_fields(self.table, "bytes"), _struct_fields(self.table, "path")
        for content, path in zip(contents, paths, strict=True):
            if content.null_count:  # a local folder: the table holds the paths alone
                lengths.append(np.array([Path(name).stat().st_size for name in path.to_pylist()]))
            else:
                lengths.append(pc.binary_length(content).to_numpy(zero_copy_only=False))
        return np.concatenate(lengths).astype(np.int64)

    def picture(self, row: int) -> Image.Image:
        """Row number ``row``, in RGB. A damaged one is decoded as far as it goes, counted, and reported by name: a long
        run does not end over it. A set with many of them is a DataError.
        """
        (stored,) = self.table[int(row)].values()
        encoded = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
        image, whole = decode_rgb(encoded)
        self.decoded += 1
        if not whole:
            self.damaged += 1
            where = f"row {row} of {self.name} ({Path(stored['path'] or 'no name').name})"
            log.warning("%s is damaged: decoded as far as it goes; number %d in this process", where, self.damaged)
            if self.damaged >= 100 and self.damaged > MOST_DAMAGED_SHARE * self.decoded:
                raise DataError(
                    f"{self.damaged} of {self.decoded} pictures are damaged, the last being {where}: fetch the data "
                    "set again, or correct the columns image and label of its config."
                )
        return image

    def fingerprint(self) -> str:
        """SHA-256 over the number of rows, the labels and the encoded lengths, in order: no picture has to be read."""
        digest = hashlib.sha256(json.dumps(len(self)).encode())
        digest.update(self.labels.astype("<i8").tobytes() + self.encoded_bytes().astype("<i8").tobytes())
        return digest.hexdigest()


def open_splits(name: str, places: Sequence[Mapping[str, Any]], num_classes: int) -> dict[str, StoredSplit]:
    """The splits of the data set ``name`` from the first of its ``places`` that has it.

    When no place has it, one DataError says why for each.
    """
    for place in places:
        check_place(name, place)
    reasons = []
    for place in places:
        try:
            return _open_place(name, place, num_classes)
        except Exception as error:  # the library, its file systems and its HTTP client each raise their own
            first_line = (str(error).strip().splitlines() or [""])[0]
            reason = first_line if isinstance(error, DataError) else f"{type(error).__name__}: {first_line}"
            reasons.append(f"  {_describe(place)}: {reason}{_gate_advice(place, str(error))}")
    local = [place["path"] for place in places if place["kind"] == "local"]
    way_out = f"\nPut its files at {' or '.join(local)}." if local else ""
    raise DataError("\n".join([f"{name} cannot be opened, because each of its places failed.", *reasons]) + way_out)


def check_place(name: str, place: Mapping[str, Any]) -> None:
    """Raise DataError for a place of unknown kind, with a key missing, or with one that its kind does not have."""
    kind = place.get("kind")
    if kind not in _KEYS:
        raise DataError(f"A place of {name} has kind={kind!r}; the kinds are {', '.join(_KEYS)}.")
    required = _KEYS[kind] | _COMMON_KEYS
    if missing := sorted(required - set(place)):
        raise DataError(f"A {kind} place of {name} lacks the key {', '.join(missing)}.")
    if unknown := sorted(set(place) - required - {"files"}):
        raise DataError(f"A {kind} place of {name} has no key {', '.join(unknown)}.")


def _describe(place: Mapping[str, Any]) -> str:
    return f"hub {place['repo']} at {place['revision']}" if place["kind"] == "hub" else f"local {place['path']}"


def _gate_advice(place: Mapping[str, Any], message: str) -> str:
    if place["kind"] == "hub" and any(word in message.lower() for word in ("gated", "401", "403", "authenticated")):
        return (
            f" (the terms of {place['repo']} must be accepted on its page on the hub, once, by the account whose token "
            "`hf auth login` or the variable HF_TOKEN gives)"
        )
    return ""


def _open_place(name: str, place: Mapping[str, Any], num_classes: int) -> dict[str, StoredSplit]:
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    if place["kind"] == "hub":
        where = {"path": place["repo"], "revision": place["revision"]}
    else:
        folder = Path(place["path"]).expanduser().absolute()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}.")
        where = {"path": str(folder)}
    # The library would compare with the whole repository, of which ``files`` may be a part; the task counts the rows.
    splits = datasets.load_dataset(**where, data_files=place.get("files"), verification_mode="no_checks")
    opened = {}
    for split, theirs in place["splits"].items():
        if theirs not in splits:
            raise DataError(f"it has no split {theirs}, only {', '.join(splits)}.")
        rows = splits[theirs]
        if absent := {place["image"], place["label"]} - set(rows.column_names):
            raise DataError(f"it has no column {', '.join(sorted(absent))}, only {', '.join(rows.column_names)}.")
        labels = _class_numbers(rows, place["label"])
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= num_classes:
            found = f"labels from {labels.min()} to {labels.max()}" if len(labels) else "no rows"
            raise DataError(f"split {theirs} has {found}, but there are {num_classes} classes, from 0.")
        table = rows.select_columns([place["image"]]).cast_column(place["image"], datasets.Image(decode=False))
        opened[split] = StoredSplit(f"{name}/{split}", table, labels)
    return opened


def _class_numbers(rows: Any, column: str) -> np.ndarray:
    """Labels, int64. Class folders named by numbers mean these numbers, not their place in alphabetical order."""
    if rows.features[column].dtype == "string":
        return np.array([int(Path(key).parent.name) for key in rows.data.column(column).to_pylist()], np.int64)
    labels = rows.data.column(column).to_numpy().astype(np.int64)
    names = getattr(rows.features[column], "names", None) or []
    if names and all(name.isdigit() for name in names):
        return np.array([int(name) for name in names], np.int64)[labels]
    return labels


def _struct_fields(table: Any, name: str) -> list[Any]:
    import pyarrow.compute as pc

    return [pc.struct_field(chunk, name) for chunk in table.data.column(0).chunks]
