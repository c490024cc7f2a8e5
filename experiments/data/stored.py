"""Image sets too large to decode in advance: encoded files, decoded when a batch needs them.

``datasets`` downloads tables once and memory-maps them, so every row of every shard can be accessed by index and a
batch stays a function of (seed, step): nothing is streamed or shuffled in a buffer. A config lists alternative sources
of the same content:

    kind      hub (with repo, revision) or local (with path: parquet files, WebDataset tar archives, or a folder of
              class folders for each split; folders.py assigns the files to splits)
    files     use only these files: one pattern, or one for each split
    splits    the splits to read, by their names in the source, optionally sliced:
              {train: train, val: "validation[:5000]"}
    image     the column of images; image for class folders
    label     the column of classes; label for class folders. Or, instead,
    caption   the column of captions: a text with one caption per line, or a list of texts. Held-out rows that share a
              caption with the training split are dropped
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.labels import Labels, check_classes, check_labels, column_labels, same_numbers
from experiments.data.stored_sources import check_stored_sources, hub_tables, local_tables
from experiments.data.stored_split import StoredSplit
from experiments.data.text import check_text, folded, lines
from experiments.harness.errors import DataError
from experiments.harness.prepared_data import check_fingerprint, joint_fingerprint
from experiments.harness.sources import first_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredSet:
    """Splits by name (train, val, test), and a fingerprint of their content."""

    splits: Mapping[str, StoredSplit]
    fingerprint: str


def open_stored(data: Mapping[str, Any], cache_dir: Path) -> StoredSet:
    """The set that ``data`` declares, from the first of its sources that has it. Its fingerprint depends on the order
    of the rows, so runs on a hub's copy and on a folder have different names. ``cache_dir`` is unused: the ``datasets``
    library has its own cache.
    """
    splits = open_splits(data)
    if data.get("num_classes") is not None:
        check_classes({name: split.labels for name, split in splits.items()}, data["num_classes"], data["name"])
    fingerprint = joint_fingerprint({name: split.fingerprint() for name, split in splits.items()})
    check_fingerprint(data, fingerprint)
    return StoredSet(splits, fingerprint)


def check_splits(splits: Collection[str], needed: Sequence[str], name: str) -> None:
    """Raise DataError for a set that lacks a split that the task needs."""
    if absent := [split for split in needed if split not in splits]:
        raise DataError(
            f"data={name} has no split {absent[0]}, only {', '.join(splits)}: define it in the key splits of its "
            f'sources, for example {absent[0]}: "train[-1000:]".'
        )


def open_splits(data: Mapping[str, Any], class_names: Sequence[str] | None = None) -> dict[str, StoredSplit]:
    """The splits of ``data`` (with the keys name, sources and, for classes, num_classes), from the first of its sources
    that has it.

    Classes are checked against ``num_classes`` and numbered as in ``class_names``, if given. If every source fails, one
    DataError gives the reason for each.
    """
    check_stored_sources(data)
    return first_of(data, lambda source: _open_source(data, source, class_names))


def _open_source(
    data: Mapping[str, Any], source: Mapping[str, Any], class_names: Sequence[str] | None
) -> dict[str, StoredSplit]:
    name, num_classes = data["name"], data.get("num_classes")
    asked = {ours: _sliced(theirs) for ours, theirs in source["splits"].items()}
    wanted = list(dict.fromkeys(theirs for theirs, _ in asked.values()))
    tables = hub_tables(source, wanted) if source["kind"] == "hub" else local_tables(source, wanted)
    whole = {theirs: _read(f"{name}/{theirs}", tables[theirs], source) for theirs in wanted}
    if "caption" in source:
        whole = {theirs: _captioned(split) for theirs, split in whole.items()}
    else:
        whole = _numbered(whole, asked["train"][0] if "train" in asked else wanted[0], class_names)
        if num_classes is not None:
            for theirs, split in whole.items():
                check_labels(split.labels, num_classes, f"split {theirs}")
    opened = {ours: _slice_of(whole[theirs], bounds, theirs) for ours, (theirs, bounds) in asked.items()}
    for ours, split in opened.items():
        split.name = f"{name}/{ours}"
        if not len(split):
            raise DataError(f"its split {source['splits'][ours]} has no rows.")
    if "caption" in source and "train" in opened:
        seen = {folded(text) for texts in opened["train"].captions for text in texts}
        opened |= {ours: _unseen(split, seen) for ours, split in opened.items() if ours != "train"}
    return opened


def _read(where: str, rows: Any, source: Mapping[str, Any]) -> StoredSplit:
    """The images and labels or captions of a table; every row is checked."""
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    key = "label" if "label" in source else "caption"
    image, column = source["image"], source[key]
    if absent := {name: source[name] for name in ("image", key) if source[name] not in rows.column_names}:
        raise DataError(
            f"it has no column {', '.join(absent.values())}, only {', '.join(rows.column_names)}: set the key "
            f"{', '.join(absent)} of the source."
        )
    try:
        table = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # pyarrow's own, and the library's
        raise DataError(f"its column {image} ({rows.features[image]}) contains no images.") from error
    split = StoredSplit(where, table, np.arange(len(table)), _lengths(table, where))
    values = rows.data.column(column).to_pylist()
    if key == "caption":
        split.captions = [_captions(text, f"row {row} of {where}") for row, text in enumerate(values)]
    else:
        names = getattr(rows.features[column], "names", None)
        labels = column_labels(values, names, f"split {where.rpartition('/')[2]}")
        split.labels, split.class_names = labels.numbers, labels.names
    return split


def _lengths(table: Any, where: str) -> np.ndarray:
    """The length of each encoded image, int64 [rows]. Raises DataError for a row without an image."""
    import pyarrow.compute as pc

    lengths: list[np.ndarray] = [np.zeros(0, np.int64)]
    start = 0
    for chunk in table.data.column(0).chunks:
        content, path = pc.struct_field(chunk, "bytes"), pc.struct_field(chunk, "path")
        if content.null_count:  # a local folder: the table contains only paths
            paths = zip(content.to_pylist(), path.to_pylist(), strict=True)
            for row, (own, name) in enumerate(paths, start):
                if own is None and (name is None or not Path(name).is_file()):
                    raise DataError(f"{where} has no image in row {row}: it is {name!r}.")
                lengths.append(np.array([Path(name).stat().st_size if own is None else len(own)]))
        else:
            lengths.append(pc.binary_length(content).to_numpy(zero_copy_only=False))
        start += len(chunk)
    return np.concatenate(lengths).astype(np.int64)


def _captions(value: Any, where: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where} has the caption {text!r}, which is not a text.")
    own = [text for text in texts if text is not None]
    return [check_text(line, where) for text in own for line in (lines(text) if isinstance(value, str) else [text])]


def _numbered(
    whole: Mapping[str, StoredSplit], first: str, class_names: Sequence[str] | None
) -> dict[str, StoredSplit]:
    labels = {theirs: Labels(split.labels, split.class_names) for theirs, split in whole.items()}
    return {
        theirs: replace(whole[theirs], labels=own.numbers, class_names=own.names)
        for theirs, own in same_numbers(labels, first, class_names).items()
    }


def _captioned(split: StoredSplit) -> StoredSplit:
    rows = [row for row, texts in enumerate(split.captions) if any(folded(text) for text in texts)]
    if len(rows) < len(split):
        without = len(split) - len(rows)
        log.warning("%s: %d of %d rows have no caption and are left out", split.name, without, len(split))
    split.captions = [[text for text in texts if folded(text)] for texts in split.captions]
    return split.chosen(rows) if len(rows) < len(split) else split


def _unseen(split: StoredSplit, seen: set[str]) -> StoredSplit:
    rows = [row for row, texts in enumerate(split.captions) if not any(folded(text) in seen for text in texts)]
    if len(rows) == len(split):
        return split
    known = f"{len(split) - len(rows)} of {len(split)} pairs in {split.name} have a caption of the training split"
    if 2 * len(rows) < len(split):
        raise DataError(
            f"{known}, such as row {split.rows[min(set(range(len(split))) - set(rows))]}: the rest would not be "
            "representative. Choose another split (the source's key splits), or captions that distinguish images."
        )
    log.warning("%s and are left out", known)
    return split.chosen(rows)


def _sliced(spec: str) -> tuple[str, str]:
    """A split's name and its slice, such as ``[:5000]``, or an empty string."""
    match = re.fullmatch(r"([^\[]*)(\[.*\])?", spec)
    if not match:
        raise DataError(f"its split {spec!r} is neither a name nor a name with a slice, such as train[:-1000].")
    return match[1], match[2] or ""


def _slice_of(split: StoredSplit, bounds: str, theirs: str) -> StoredSplit:
    if not bounds:
        return replace(split)
    import datasets

    try:
        (part,) = datasets.ReadInstruction.from_spec(f"train{bounds}").to_absolute({"train": len(split)})
    except (ValueError, AssertionError) as error:
        raise DataError(f"its split {theirs}{bounds} cannot be sliced from {len(split)} rows ({error}).") from error
    rows = range(len(split))[part.from_ : part.to]
    if not rows:
        raise DataError(f"its split {theirs}{bounds} has no rows: {theirs} has {len(split)}.")
    chosen = split.chosen(rows)
    if absent := set(split.labels.tolist()) - set(chosen.labels.tolist()):
        raise DataError(
            f"its split {theirs}{bounds} lacks {len(absent)} of the {len(set(split.labels.tolist()))} classes of "
            f"{theirs}, such as number {min(absent)}: rows sorted by class cannot be sliced into splits."
        )
    return chosen
