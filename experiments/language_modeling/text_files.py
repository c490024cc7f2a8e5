"""Text files, one document per file, in one folder per split."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from experiments.data.folders import visible_files, warn_of_unread
from experiments.data.text import check_text
from experiments.harness.errors import DataError
from experiments.language_modeling.documents import PUBLISHED_SPLITS, Corpus, Document, Source

READ_BYTES = 1 << 20


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
