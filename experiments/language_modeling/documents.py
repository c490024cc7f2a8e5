"""Documents, which are read in pieces so that a whole book is never in memory, and the splits they belong to."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from experiments.data.text import folded


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
