"""Documents: texts that are read in pieces, so that a book is never in memory whole, and the splits they belong to."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice


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
    """16 bytes that two documents share if they differ in nothing but white space and case: of SHA-256."""
    digest = hashlib.sha256()
    for piece in document.pieces():
        digest.update("".join(piece.split()).casefold().encode())
    return digest.digest()[:16]


def hold_out(source: Source, share: float) -> Corpus:
    """Three splits of one source: ``share`` of the documents for val and as many for test, the rest for train.

    Where a document goes depends on its text alone, and not on white space or case in it.
    """

    def split(document: Document) -> str:
        place = int.from_bytes(folded_key(document)[:8]) / 2**64
        return "val" if place < share else "test" if place < 2 * share else "train"

    def part(name: str) -> Source:
        return lambda skip: islice((document for document in source(0) if split(document) == name), skip, None)

    return {name: part(name) for name in ("train", "val", "test")}
