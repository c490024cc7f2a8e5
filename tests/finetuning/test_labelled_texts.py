"""Labelled texts: reading files, and a split without leaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.finetuning.data import SPLITS, text_arrays, text_splits
from experiments.finetuning.decode import bbc_news, rotten_tomatoes
from experiments.harness.errors import DataError
from experiments.harness.prepared_data import prepare
from tests.finetuning.smoke_runs import review_file, reviews

FILE = "rotten_tomatoes_corpus_full.csv.bz2"


def decoded(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    (folder / FILE).write_bytes(content)
    return rotten_tomatoes(folder)


def test_no_film_is_in_two_splits_and_plot_summaries_are_dropped(tmp_path: Path) -> None:
    rows = reviews()
    splits = text_splits(decoded(tmp_path, review_file(rows)))
    film_of = {row["text"]: row["movie_name"] for row in rows}
    films = {name: {film_of[text] for text in split.texts} for name, split in splits.items()}
    assert all(films.values())
    assert sum(len(one) for one in films.values()) == len(set().union(*films.values()))
    labels = {row["text"]: int(row["category"] == "fresh") for row in rows}
    assert sum(len(split.texts) for split in splits.values()) == len(labels)
    for split in splits.values():
        assert split.labels.tolist() == [labels[text] for text in split.texts]


def test_texts_of_one_film_share_one_group_index(tmp_path: Path) -> None:
    rows = reviews()
    film_of = {row["text"]: row["movie_name"] for row in rows}
    pairs = {
        (film_of[text], int(group))
        for split in text_splits(decoded(tmp_path, review_file(rows))).values()
        for text, group in zip(split.texts, split.groups, strict=True)
    }
    assert len(pairs) == len({film for film, _ in pairs}) == len({group for _, group in pairs})


def test_the_split_does_not_depend_on_the_order_of_the_films(tmp_path: Path) -> None:
    splits = text_splits(decoded(tmp_path, review_file(reviews())))
    turned = text_splits(decoded(tmp_path, review_file(reviews()[::-1])))
    assert {name: set(split.texts) for name, split in splits.items()} == {
        name: set(split.texts) for name, split in turned.items()
    }


def test_duplicate_texts_are_kept_once() -> None:
    groups = [f"film {number}" for number in range(40)]
    texts = ["The  same\n words." if number % 2 else "the same words." for number in range(40)]
    splits = text_splits(text_arrays([*texts, "Others."], [1] * 41, [*groups, "film 40"]))
    assert sorted(text for split in splits.values() for text in split.texts) == ["Others.", "the same words."]


def test_only_white_space_of_a_text_is_changed() -> None:
    texts = ["one\ttwo\nthree", "é ü 日本", '"quoted", and so on']
    splits = text_splits(text_arrays(texts, [0, 1, 2], ["a", "b", "c"]))
    assert sorted(text for name in SPLITS for text in splits[name].texts) == sorted(["one two three", *texts[1:]])


@pytest.mark.parametrize("text", ["", "  \n ", "\u2003"])
def test_an_empty_text_is_refused_by_index_and_group(tmp_path: Path, text: str) -> None:
    rows = [*reviews(), {"category": "fresh", "text": text, "movie_name": "blank"}]
    with pytest.raises(ValueError, match=r"text 240 \(of the group 'blank'\) is empty"):
        decoded(tmp_path, review_file(rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.replace(b"movie_name", b"film"), "there is no column movie_name"),
        (lambda table: table.replace(b"fresh,", b"ripe,", 1), "unknown category 'ripe', not plot, rotten or fresh"),
        (lambda table: table.replace(b"Scene 0", b"Sc\xe8ne 0", 1), "'utf-8' codec can't decode byte 0xe8"),
        (lambda table: table + b"fresh\r\n", r"text 240 \(of the group ''\) is empty"),
    ],
)
def test_a_malformed_review_file_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str, caplog: Any
) -> None:
    import bz2

    (tmp_path / FILE).write_bytes(bz2.compress(change(bz2.decompress(review_file(reviews())))))
    source = {"kind": "local", "path": str(tmp_path), "decode": "experiments.finetuning.decode.rotten_tomatoes"}
    with pytest.raises(DataError, match=message):
        prepare({"name": "reviews", "fingerprint": None, "sources": [source]}, tmp_path / "cache")


def test_articles_in_utf_8_and_latin_1_get_their_folders_class(tmp_path: Path) -> None:
    for name in ("tech", "business"):
        (tmp_path / name).mkdir()
    (tmp_path / "tech/001.txt").write_bytes("Headline\n\nCafé".encode())
    (tmp_path / "business/001.txt").write_bytes(b"A \xa315.8m sign")
    splits = text_splits(bbc_news(tmp_path))
    found = {text: label for split in splits.values() for text, label in zip(split.texts, split.labels, strict=True)}
    assert found == {"A £15.8m sign": 0, "Headline Café": 1}


def test_texts_that_look_alike_are_duplicates_and_invisible_ones_are_empty() -> None:
    texts = ["A café.", "\ufeffA cafe\u0301.", "a ca\u200bFÉ.", "another"]
    splits = text_splits(text_arrays(texts, [0] * 4, ["a", "b", "c", "d"]))
    assert sorted(text for split in splits.values() for text in split.texts) == ["A café.", "another"]
    with pytest.raises(ValueError, match="text 1"):
        text_arrays(["a", "\u200b\ufeff"], [0, 0], ["a", "b"])


def test_hidden_files_are_ignored_and_utf_16_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (
        "tech/1.txt",
        "tech/._1.txt",
        ".git/1.txt",
        "__MACOSX/1.txt",
        "tech/notes.md",
        "art/2.TXT",
        "art/a/3.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(f"of {name}".encode())
    splits = text_splits(bbc_news(tmp_path))
    found = {text: label for split in splits.values() for text, label in zip(split.texts, split.labels, strict=True)}
    assert found == {"of art/2.TXT": 0, "of tech/1.txt": 1}
    assert "2 files of" in caplog.text
    (tmp_path / "art" / "4.txt").write_bytes("A plain text".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"art/4\.txt is not text"):
        bbc_news(tmp_path)
