"""Decoders for labelled texts, from package registries or a user's tables (CSV, JSON lines, Parquet), to the arrays of
data.py.
"""

import bz2
import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.folders import is_hidden, split_files, visible_files, warn_of_unread
from experiments.data.labels import column_labels, same_numbers
from experiments.data.text import check_text, folded
from experiments.finetuning.data import SPLITS, text_arrays
from experiments.harness.errors import DataError

RATINGS = {"rotten": 0, "fresh": 1}


def rotten_tomatoes(folder: Path) -> dict[str, np.ndarray]:
    """Sentences from film reviews, class 0 rotten and 1 fresh, split by film; plot summaries are left out.

    Raises ValueError for a missing column, bytes that are not UTF-8, an unknown category, or an empty review.
    """
    table = io.StringIO(bz2.decompress((folder / "rotten_tomatoes_corpus_full.csv.bz2").read_bytes()).decode())
    reader = csv.DictReader(table, restval="", strict=True)
    if missing := {"category", "text", "movie_name"} - set(reader.fieldnames or ()):
        raise ValueError(f"there is no column {', '.join(sorted(missing))}")
    reviews = [row for row in reader if row["category"] != "plot"]
    if unknown := {row["category"] for row in reviews} - set(RATINGS):
        raise ValueError(f"unknown category {', '.join(map(repr, sorted(unknown)))}, not plot, {' or '.join(RATINGS)}")
    labels = [RATINGS[row["category"]] for row in reviews]
    return text_arrays([row["text"] for row in reviews], labels, [row["movie_name"] for row in reviews])


def bbc_news(folder: Path) -> dict[str, np.ndarray]:
    """News articles with their headlines, one folder of files per class, with the five classes in alphabetical order.

    A file that is not UTF-8 is decoded as Windows-1252 (one is, because of its pound signs). Raises ValueError for a
    byte that is neither, or for an empty file.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    files = list(visible_files(folder))
    paths = [path for path in files if path.parent.parent == folder and path.suffix.lower() == ".txt"]
    warn_of_unread(folder, [path for path in files if path not in set(paths)])
    texts = []
    for path in paths:
        content = path.read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        texts.append(check_text(text, str(path)))
    return text_arrays(texts, [classes.index(path.parent.name) for path in paths], texts)


Column = list[Any]


def labelled_tables(
    source: Any,
    splits: Mapping[str, str] | None = None,
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    files: Any = None,
) -> dict[str, np.ndarray]:
    """The rows in a folder's tables, or in a ``datasets.DatasetDict`` from the hub.

    Args:
        source: The folder (experiments/data/folders.py assigns its files to splits), or the DatasetDict.
        splits: The source's name for each of our splits (train, and optionally val and test). Without test, all splits
            are made from the rows of train, by a hash of their group; without val, it is taken from train in this way.
        text: The column of texts.
        label: The column of classes: integers from 0, or names, which are numbered in alphabetical order.
        group: The column whose values must not occur in two splits (a film, an author); by default the text itself.
        files: Patterns that select the files of a split, if their names do not identify it.

    Raises:
        DataError: The message names the file and the row, or the split.
    """
    theirs = splits or {"train": "train"}
    if "train" not in theirs or not set(theirs) <= set(SPLITS) or set(theirs) == {"train", "val"}:
        raise DataError(f"its splits are {', '.join(theirs)}, but they may be train, train and test, or all of them.")
    wanted = {"text": text, "label": label} | ({"group": group} if group else {})
    in_order = [ours for ours in reversed(SPLITS) if ours in theirs]
    # All splits at once, so that only files that no split reads are warned about.
    found = split_files(source, [theirs[ours] for ours in in_order], files) if isinstance(source, Path) else source
    tables = {ours: _columns(found, theirs[ours], wanted) for ours in in_order}
    labels = same_numbers({ours: column_labels(table[label], None, f"split {ours}") for ours, table in tables.items()},
                          "train", None)  # fmt: skip
    rows = [(ours, row) for ours, table in tables.items() for row in range(len(table[text]))]
    return text_arrays(
        [tables[ours][text][row] for ours, row in rows],
        [int(labels[ours].numbers[row]) for ours, row in rows],
        [str(tables[ours][group or text][row]) for ours, row in rows],
        [ours for ours, _ in rows] if "test" in theirs else None,
        draws_val="val" not in theirs,
    )


def _columns(source: Any, split: str, wanted: Mapping[str, str]) -> dict[str, Column]:
    """The wanted columns of a split, each given with the option that names it, from ``split_files`` or a DatasetDict.
    Every row of the column of texts is checked.
    """
    if split in source and isinstance(source[split], tuple):
        kind, _, paths = source[split]
        if kind not in _READERS:
            raise DataError(
                f"its split {split} has files of the kind {kind}, but texts must be in {', '.join(_READERS)}."
            )
        parts = [(str(path), _READERS[kind](path)) for path in paths]
    else:
        if split not in source:
            raise DataError(f"it has no split {split}, only {', '.join(source)}.")
        parts = [(f"split {split}", {name: list(source[split][name]) for name in source[split].column_names})]
    joined: dict[str, Column] = {name: [] for name in wanted.values()}
    for where, table in parts:
        if absent := {option: name for option, name in wanted.items() if name not in table}:
            options = ", ".join(f"options.{option}" for option in absent)
            raise DataError(
                f"{where} has no column {', '.join(absent.values())}, only {', '.join(table)}: set {options} of its "
                "source in data.sources."
            )
        for row, content in enumerate(table[wanted["text"]]):
            if not isinstance(content, str) or not folded(content):
                raise DataError(f"{where} has no text in row {row}: it is {content!r}.")
        for name in joined:
            joined[name] += table[name]
    return joined


def _csv_table(path: Path) -> dict[str, Column]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not CSV in UTF-8 ({error}).") from error
    rows = [row for row in rows if row]
    if wrong := next((number for number, row in enumerate(rows) if len(row) != len(head)), None):
        raise DataError(f"{path} has {len(rows[wrong])} cells in row {wrong}, but {len(head)} columns.")
    return {name: [row[place] for row in rows] for place, name in enumerate(head)}


def _json_table(path: Path) -> dict[str, Column]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines()):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} has invalid JSON in line {number + 1} ({error}).") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} has no JSON object in line {number + 1}, but {str(row)[:50]}.")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet_table(path: Path) -> dict[str, Column]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table.column(name).to_pylist() for name in table.column_names}


_READERS: dict[str, Callable[[Path], dict[str, Column]]] = {
    "csv": _csv_table,
    "json": _json_table,
    "parquet": _parquet_table,
}
