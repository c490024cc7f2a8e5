"""Wiki-40B's markup, parsed by hand, and its folders."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness.errors import DataError
from experiments.language_modeling.decode import plain_text, wiki40b, wiki40b_training
from experiments.language_modeling.documents import PUBLISHED_SPLITS
from tests.language_modeling.tables_on_disk import write_wiki40b

MARKED = (
    "\n_START_ARTICLE_\nŠumava\n_START_PARAGRAPH_\nA range of mountains.\n_START_SECTION_\nNature\n_START_PARAGRAPH_\n"
    "It is old._NEWLINE_It has “moors”.\n_START_SECTION_\nSights\n_START_SECTION_\nEast\n_START_PARAGRAPH_\nLakes"
)
PLAIN = "Šumava\n\nA range of mountains.\n\nNature\nIt is old.\nIt has “moors”.\n\nSights\n\nEast\nLakes"


def test_wiki40b_markers_become_line_breaks() -> None:
    assert plain_text(MARKED) == PLAIN


@pytest.mark.parametrize("text", [MARKED, MARKED + " it's", MARKED + ' "x"', MARKED + ' it\'s "x" \\n \\'])
def test_printed_python_bytes_are_decoded(text: str) -> None:
    assert plain_text(repr(text.encode())) == plain_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\nAn article without any marker.\n",
        "MY_START_ARTICLE_IS and _START_SECTION_ in a line",
        "a_NEWLINE_b in a text without markers",
        "b'quoted'",
        "b'_START_ARTICLE_' and more'",
    ],
)
def test_text_without_markers_is_unchanged(text: str) -> None:
    assert plain_text(text) == text


def test_marker_words_within_a_line_are_kept() -> None:
    assert plain_text("_START_ARTICLE_\nThe _START_SECTION_ word\n_START_PARAGRAPH_\nX_START_PARAGRAPH_\ny") == (
        "The _START_SECTION_ word\n\nX_START_PARAGRAPH_\ny"
    )


@given(st.text())
def test_arbitrary_text_without_a_marker_is_unchanged(text: str) -> None:
    assert plain_text(text) == text
    assert plain_text(f"_START_ARTICLE_\nT\n_START_PARAGRAPH_\nx{text}x") == f"T\n\nx{text}x"


def test_printed_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(ValueError, match="0xff"):
        plain_text(r"b'\n_START_ARTICLE_\n\xff'")


def test_each_wiki40b_language_is_read_from_its_own_folder(tmp_path: Path) -> None:
    for language, mark in (("de", "ü"), ("zh-cn", "中")):
        for name in PUBLISHED_SPLITS.values():
            write_wiki40b(tmp_path / language, name, [f"_START_ARTICLE_\n{mark} {name}"])
    corpus = wiki40b(str(tmp_path), "zh-cn")
    found = {split: ["".join(document.pieces()) for document in source(0)] for split, source in corpus.items()}
    assert found == {"train": ["中 train"], "val": ["中 validation"], "test": ["中 test"]}
    assert list(wiki40b_training(str(tmp_path), "de")) == ["train"]
    with pytest.raises(DataError, match=r"there is no file xx/train-\*\.parquet in .*, which contains de, zh-cn\."):
        wiki40b(str(tmp_path), "xx")
