"""Books as text files, one a document, in a folder for each split."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from experiments.data.folders import visible_files, warn_of_unread
from experiments.data.text import check_text
from experiments.harness.errors import DataError
from experiments.language_modeling.documents import PUBLISHED_SPLITS, Corpus, Document, Source

READ_BYTES = 1 << 20


def file_document(path: Path) -> Document:
    """The text of a UTF-8 file as it stands: no newline is translated, no mark removed."""
    return Document(str(path), lambda: _pieces(path))


def folder_source(folder: Path) -> Source:
    """The .txt files of a folder in the order of their names. What else lies there is counted and named in a warning.

    Raises DataError where there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.")
    files = list(visible_files(folder))
    texts = [path for path in files if path.parent == folder and path.suffix.lower() == ".txt"]
    warn_of_unread(folder, [path for path in files if path not in set(texts)])
    if not texts:
        raise DataError(f"the folder {folder} holds no .txt file.")
    return lambda skip: map(file_document, texts[skip:])


def texts(root: str) -> Corpus:
    """A user's own: the folders train, validation and test, or .txt files alone, some of which are held out
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
