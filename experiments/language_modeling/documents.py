"""Documents: texts that are read in pieces, so that a book is never in memory whole, and the splits they belong to."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from experiments.data.text import folded


@dataclass(frozen=True)
class Document:
    """One text, which is never cut over two splits."""

    where: str
    """file or row that it comes from, for messages"""
    pieces: Callable[[], Iterable[str]]
    """its text in order, in pieces of any length, from the beginning at every call"""


Source = Callable[[int], Iterator[Document]]
"""The documents of one split in an order that never changes, without the first so many."""

Corpus = Mapping[str, Source]
"""Sources by split: train, val and test, or train alone where nothing is set aside."""

PUBLISHED_SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Our names of the splits, and those of most published sets."""


def text_document(where: str, text: str) -> Document:
    """A document whose text is in memory already."""
    return Document(where, lambda: (text,))


def folded_key(document: Document) -> bytes:
    """16 bytes of SHA-256 that two documents share if they differ in nothing but white space and what
    experiments/data/text.py calls the same, however they are cut into pieces.
    """
    digest = hashlib.sha256()
    rest = ""
    for piece in document.pieces():
        text = rest + piece
        end = len(text)
        # Accents are put in order together with the letter that they stand on, also those in the next piece.
        while end and unicodedata.category(text[end - 1]) in ("Mn", "Mc", "Me", "Cf"):
            end -= 1
        end = max(end - 1, 0)
        digest.update(folded(text[:end]).replace(" ", "").encode())
        rest = text[end:]
    digest.update(folded(rest).replace(" ", "").encode())
    return digest.digest()[:16]


def _place(document: Document) -> float:
    """Where a document lies between 0 and 1, by its text. Committed sets depend on it: it stays as it is."""
    digest = hashlib.sha256()
    for piece in document.pieces():
        digest.update("".join(piece.split()).casefold().encode())
    return int.from_bytes(digest.digest()[:8]) / 2**64


def hold_out(source: Source, share: float) -> Corpus:
    """Three splits of one source: ``share`` of the documents for val and as many for test, the rest for train.

    Where a document goes depends on its text alone, and not on white space or case in it.
    """

    def split(document: Document) -> str:
        place = _place(document)
        return "val" if place < share else "test" if place < 2 * share else "train"

    def part(name: str) -> Source:
        return lambda skip: islice((document for document in source(0) if split(document) == name), skip, None)

    return {name: part(name) for name in ("train", "val", "test")}
