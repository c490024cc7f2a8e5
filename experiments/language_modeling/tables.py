"""Texts in tables on the Hugging Face hub, or in a copy of its files: streamed, never downloaded completely."""

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.harness.errors import DataError
from experiments.language_modeling.documents import Corpus, Document, Source, text_document

Block = tuple[int, Callable[[], Sequence[Any]]]
"""The number of rows, and a function that reads their cells"""


def table_sources(
    root: str, patterns: Mapping[str, str], column: str = "text", to_text: Callable[[str], str] = str
) -> Corpus:
    """The files of each split under ``root``, in order of their names, one document per row.

    Args:
        root: A folder, or an address such as ``hf://datasets/google/wiki40b@<revision>``.
        patterns: File name patterns by split, such as ``en/train-*.parquet``.
        column: The column that contains the text.
        to_text: Converts a cell to plain text; its ValueErrors are reported with the row.

    Raises:
        DataError: A pattern matches no file; or, while reading, a row cannot be read or has no text. The message gives
            the row's number, from 0, within all files and within its own file.
    """
    return {split: _source(root, pattern, column, to_text) for split, pattern in patterns.items()}


def _source(root: str, pattern: str, column: str, to_text: Callable[[str], str]) -> Source:
    blocks = next((blocks for ending, blocks in _READERS.items() if pattern.endswith(ending)), None)
    if blocks is None:
        raise DataError(f"the pattern {pattern} must end in one of {', '.join(_READERS)}.")
    file_system, files = _matching_files(root, pattern)

    def documents(skip: int) -> Iterator[Document]:
        number = 0
        for path in files:
            first, name = number, path.rsplit("/", 1)[-1]
            try:
                for count, read in blocks(file_system, path, column):
                    rows = read() if number + count > skip else ()
                    for row in range(count):
                        if number >= skip:
                            yield text_document(f"row {number - first} of {path}", _text(rows[row], column, to_text))
                        number += 1
            except _BadRowError as fault:
                where = f"row {number} of {root}/{pattern}"
                raise DataError(f"{where} {fault} (row {number - first} of {name}).") from fault
            except Exception as error:  # the file system of the hub and its HTTP client each raise their own
                where = f"{root}/{pattern} cannot be read at row {number}"
                raise DataError(f"{where} ({_sentence(error)}): row {number - first} of {name}.") from error

    return documents


class _BadRowError(Exception):
    """What is wrong with a row, without its number."""


def _parquet_blocks(file_system: Any, path: str, column: str) -> Iterator[Block]:
    import pyarrow.parquet as pq

    with file_system.open(path) as file:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if column not in names:
            raise _BadRowError(f"has no column {column}, only {', '.join(names)}")
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            yield count, lambda group=group: table.read_row_group(group, [column]).column(0)  # type: ignore[misc]


def _json_blocks(file_system: Any, path: str, column: str) -> Iterator[Block]:
    def cell(line: bytes) -> Any:
        row = json.loads(line)
        if not isinstance(row, dict) or column not in row:
            has = f"only {', '.join(row)}" if isinstance(row, dict) else f"but is {row!r}"
            raise _BadRowError(f"has no column {column}, {has}")
        return row[column]

    with file_system.open(path, compression="infer") as file:
        for line in file:
            if line.strip():
                yield 1, lambda line=line: (cell(line),)  # type: ignore[misc]


_READERS = {".parquet": _parquet_blocks, **dict.fromkeys((".json.gz", ".jsonl.gz", ".json", ".jsonl"), _json_blocks)}
"""By the suffix of a file's name; JSON files contain one object per line."""


def _matching_files(root: str, pattern: str) -> tuple[Any, list[str]]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        file_system, path = url_to_fs(root)
        found = sorted(file_system.glob(f"{glob.escape(path)}/{pattern}"))
        others = [] if found else sorted(file_system.ls(path, detail=False))
    except Exception as error:  # the file system of the hub and its HTTP client each raise their own
        raise DataError(f"{root} cannot be read ({_sentence(error)}).") from error
    if not found:
        names = ", ".join(name.rsplit("/", 1)[-1] for name in others)
        raise DataError(f"there is no file {pattern} in {root}, which contains {names or 'nothing'}.")
    return file_system, found


def _text(cell: Any, column: str, to_text: Callable[[str], str]) -> str:
    if hasattr(cell, "as_py"):
        cell = cell.as_py()
    if cell is None:
        raise _BadRowError(f"has no text: its {column} is null")
    try:
        if isinstance(cell, bytes):
            cell = cell.decode()
        if not isinstance(cell, str):
            raise _BadRowError(f"has no text: its {column} is {cell!r}")
        return to_text(cell)
    except ValueError as error:
        raise _BadRowError(f"cannot be decoded ({_sentence(error)})") from error


def _sentence(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"
