"""Decoders for labelled texts from package registries, to the arrays of text_arrays.py."""

import bz2
import csv
import io
from pathlib import Path

import numpy as np

from experiments.data.folders import is_hidden, visible_files, warn_of_unread
from experiments.data.text import check_text
from experiments.finetuning.text_arrays import text_arrays

RATINGS = {"rotten": 0, "fresh": 1}


def rotten_tomatoes(folder: Path) -> dict[str, np.ndarray]:
    """Sentences from film reviews, class 0 rotten and 1 fresh, split by film; plot summaries are left out.

    Raises ValueError for a missing column, bytes that are not UTF-8, an unknown category, or an empty review.
    """
    table = io.StringIO(bz2.decompress((folder / "rotten_tomatoes_corpus_full.csv.bz2").read_bytes()).decode())
    reader = csv.DictReader(table, restval="", strict=True)
    if missing := {"category", "text", "movie_name"} - set(reader.fieldnames or ()):
        raise ValueError(f"there is no column {', '.join(sorted(missing))}")
    reviews = [row for row in reader if row["category"] != "plot"]
    if unknown := {row["category"] for row in reviews} - set(RATINGS):
        raise ValueError(f"unknown category {', '.join(map(repr, sorted(unknown)))}, not plot, {' or '.join(RATINGS)}")
    labels = [RATINGS[row["category"]] for row in reviews]
    return text_arrays([row["text"] for row in reviews], labels, [row["movie_name"] for row in reviews])


def bbc_news(folder: Path) -> dict[str, np.ndarray]:
    """News articles with their headlines, one folder of files per class, with the five classes in alphabetical order.

    A file that is not UTF-8 is decoded as Windows-1252 (one is, because of its pound signs). Raises ValueError for a
    byte that is neither, or for an empty file.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    files = list(visible_files(folder))
    paths = [path for path in files if path.parent.parent == folder and path.suffix.lower() == ".txt"]
    warn_of_unread(folder, [path for path in files if path not in set(paths)])
    texts = []
    for path in paths:
        content = path.read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        texts.append(check_text(text, str(path)))
    return text_arrays(texts, [classes.index(path.parent.name) for path in paths], texts)
