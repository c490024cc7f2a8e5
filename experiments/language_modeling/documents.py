"""Documents, read in pieces so that a whole book is never in memory, from text files and tables, and the splits they
belong to.
"""

import codecs
import glob
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.data.folders import visible_files, warn_of_unread
from experiments.data.text import check_text, folded
from experiments.harness.errors import DataError, first_line


@dataclass(frozen=True)
class Document:
    """One text, which always belongs to a single split."""

    where: str
    """the file or row it comes from, for messages"""
    pieces: Callable[[], Iterable[str]]
    """its text in order, in pieces of any length, starting over at every call"""


Source = Callable[[int], Iterator[Document]]
"""The documents of one split in a fixed order, skipping the first n."""

Corpus = Mapping[str, Source]
"""Sources by split: train, val and test, or only train if nothing is held out."""

PUBLISHED_SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Our names of the splits, and the names in most published sets."""


READ_BYTES = 1 << 20
Block = tuple[int, Callable[[], Sequence[Any]]]
"""The number of rows, and a function that reads their cells"""


def text_document(where: str, text: str) -> Document:
    """A document whose text is already in memory."""
    return Document(where, lambda: (text,))


def folded_key(document: Document) -> bytes:
    """16 bytes of SHA-256 that are equal for documents that differ only in white space and in what
    experiments/data/text.py folds, however they are divided into pieces.
    """
    digest = hashlib.sha256()
    rest = ""
    for piece in document.pieces():
        text = rest + piece
        end = len(text)
        # Accents are normalized together with their base letter, so they must not be separated from it.
        while end and unicodedata.category(text[end - 1]) in ("Mn", "Mc", "Me", "Cf"):
            end -= 1
        end = max(end - 1, 0)
        digest.update(folded(text[:end]).replace(" ", "").encode())
        rest = text[end:]
    digest.update(folded(rest).replace(" ", "").encode())
    return digest.digest()[:16]


def _place(document: Document) -> float:
    """A number from 0 to 1 that depends only on a document's text. Committed sets depend on it: it must not change."""
    digest = hashlib.sha256()
    for piece in document.pieces():
        digest.update("".join(piece.split()).casefold().encode())
    return int.from_bytes(digest.digest()[:8]) / 2**64


def hold_out(source: Source, share: float) -> Corpus:
    """Three splits of one source: ``share`` of the documents for val, equally many for test, the rest for train.

    A document's split depends only on its text, ignoring white space and case.
    """

    def split(document: Document) -> str:
        place = _place(document)
        return "val" if place < share else "test" if place < 2 * share else "train"

    def part(name: str) -> Source:
        return lambda skip: islice((document for document in source(0) if split(document) == name), skip, None)

    return {name: part(name) for name in ("train", "val", "test")}


def file_document(path: Path) -> Document:
    """The unmodified text of a UTF-8 file: newlines are not translated, and a byte-order mark is not removed."""
    return Document(str(path), lambda: _pieces(path))


def folder_source(folder: Path) -> Source:
    """The .txt files of a folder in order of their names. A warning counts and names all other files.

    Raises DataError if the folder does not exist or contains no such file.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.")
    files = list(visible_files(folder))
    texts = [path for path in files if path.parent == folder and path.suffix.lower() == ".txt"]
    warn_of_unread(folder, [path for path in files if path not in set(texts)])
    if not texts:
        raise DataError(f"the folder {folder} contains no .txt file.")
    return lambda skip: map(file_document, texts[skip:])


def texts(root: str) -> Corpus:
    """A user's own texts: folders train, validation and test, or just .txt files, some of which are held out
    (``data.held_out_share``).
    """
    folder = Path(root)
    return split_folders(folder) if (folder / "train").is_dir() else {"train": folder_source(folder)}


def split_folders(root: Path) -> Corpus:
    """The folders train, validation and test of ``root``."""
    return {split: folder_source(root / name) for split, name in PUBLISHED_SPLITS.items()}


def _pieces(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    decoded_bytes = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(READ_BYTES)
            held_back = len(decoder.getstate()[0])  # the first bytes of a character whose rest is in this chunk
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                offset = decoded_bytes - held_back + error.start
                raise DataError(f"{path} is not UTF-8: {error.reason} at byte {offset}. Convert it (iconv).") from error
            if text and decoded_bytes == 0:
                check_text(text, str(path))
            decoded_bytes += len(chunk)
            if text:
                yield text
            if not chunk:
                return


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
    return f"{type(error).__name__}: {first_line(error)}"
