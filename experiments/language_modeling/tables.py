"""Texts in the tables of the Hugging Face hub, or in a copy of its files: streamed, never downloaded whole."""

import glob
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.harness.errors import DataError
from experiments.language_modeling.documents import Corpus, Document, Source, text_document

_BUILDERS = {".parquet": "parquet", ".json.gz": "json"}


def table_sources(
    root: str, patterns: Mapping[str, str], column: str = "text", to_text: Callable[[str], str] = str
) -> Corpus:
    """The files of each split under ``root``, in the order of their names, one document a row.

    Args:
        root: A folder, or an address such as ``hf://datasets/google/wiki40b@<revision>``.
        patterns: File names by split, such as ``en/train-*.parquet``.
        column: The column that holds the text.
        to_text: Turns a cell into plain text; a ValueError of it is reported with the row.

    Raises:
        DataError: A pattern matches no file; while reading: a row cannot be read, or has no text.
    """
    return {split: _source(root, pattern, column, to_text) for split, pattern in patterns.items()}


def _source(root: str, pattern: str, column: str, to_text: Callable[[str], str]) -> Source:
    files = _matching_files(root, pattern)
    builder = next((builder for ending, builder in _BUILDERS.items() if pattern.endswith(ending)), None)
    assert builder, f"{pattern} ends with none of {', '.join(_BUILDERS)}"

    def documents(skip: int) -> Iterator[Document]:
        for number, row in enumerate(_rows(builder, files, skip, f"{root}/{pattern}"), skip):
            where = f"row {number} of {root}/{pattern}"
            yield text_document(where, _text(row, column, to_text, where))

    return documents


def _matching_files(root: str, pattern: str) -> list[str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        file_system, path = url_to_fs(root)
        found = sorted(file_system.glob(f"{glob.escape(path)}/{pattern}"))
        others = [] if found else sorted(file_system.ls(path, detail=False))
    except Exception as error:  # the file system of the hub and its HTTP client each raise their own
        raise DataError(f"{root} cannot be read ({_sentence(error)}).") from error
    if not found:
        names = ", ".join(name.rsplit("/", 1)[-1] for name in others)
        raise DataError(f"there is no file {pattern} in {root}, which holds {names or 'nothing'}.")
    return [file_system.unstrip_protocol(name) for name in found]


def _rows(builder: str, files: list[str], skip: int, where: str) -> Iterator[dict[str, Any]]:
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    number = skip
    try:
        for row in datasets.load_dataset(builder, data_files=files, split="train", streaming=True).skip(skip):
            yield row
            number += 1
    except Exception as error:  # the library, its file systems and its HTTP client each raise their own
        raise DataError(f"{where} cannot be read at row {number} ({_sentence(error)}).") from error


def _text(row: Mapping[str, Any], column: str, to_text: Callable[[str], str], where: str) -> str:
    if column not in row:
        raise DataError(f"{where} has no column {column}, only {', '.join(row)}.")
    cell = row[column]
    if cell is None:
        raise DataError(f"{where} has no text: its {column} is null.")
    try:
        return to_text(cell.decode() if isinstance(cell, bytes) else cell)
    except ValueError as error:
        raise DataError(f"{where} cannot be decoded ({_sentence(error)}).") from error


def _sentence(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"
