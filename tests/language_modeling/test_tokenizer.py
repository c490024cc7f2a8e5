"""The tokenizer: texts round-trip, no text contains the separator, and neither threads nor chunks change a token."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from experiments.harness.source_code import ROOT
from experiments.language_modeling import packing
from experiments.language_modeling.packing import SEPARATOR, SEPARATOR_ID, cut, train_tokenizer
from tests.language_modeling.smoke_runs import book

TEXTS = [book(f"book {number}") for number in range(20)]
ODD_TEXTS = [
    "emoji 👩‍👩‍👧‍👦 and ﬁ ligatures, e\u0301 decomposed, Å angstrom",
    "tabs\tand\r\nWindows lines\r\n\r\n  trailing   ",
    "\x00 NUL \x1c separators \x85 next line \u2028 line \u00a0no-break\u3000wide",
    "it's we'll they've I'd 'sup don''t",
    f"{SEPARATOR} and{SEPARATOR}",
    "中文没有空格但是有很多字",
    "   \n\n \t \n",
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS, 330)


@settings(deadline=None)
@given(st.text())
@example(ODD_TEXTS[0])
@example(ODD_TEXTS[1])
@example(ODD_TEXTS[2])
def test_tokenization_round_trips_any_text(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS[:2], 300)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_no_text_is_tokenized_to_the_separator(trained: Tokenizer) -> None:
    assert trained.token_to_id(SEPARATOR) == SEPARATOR_ID
    for text in ODD_TEXTS:
        assert SEPARATOR_ID not in trained.encode(text).ids
        assert trained.decode(trained.encode(text).ids) == text
    with_it = train_tokenizer([*TEXTS, SEPARATOR * 1000], 330)
    assert SEPARATOR_ID not in with_it.encode(SEPARATOR).ids


def test_the_vocabulary_is_the_separator_all_bytes_and_the_merges(trained: Tokenizer) -> None:
    assert trained.get_vocab_size() == 330
    assert sorted(trained.get_vocab().values()) == list(range(330))
    assert len(json.loads(trained.to_str())["model"]["merges"]) == 330 - 257
    short = train_tokenizer(["a b"], 400)
    assert short.get_vocab_size() == 257, "no pair occurs twice"


def test_transformers_tokenizes_identically_from_the_saved_file(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(str(tmp_path / "tokenizer.json"))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in [*ODD_TEXTS, *TEXTS]:
        assert theirs(text)["input_ids"] == trained.encode(text).ids


def test_threads_hash_seed_and_pieces_do_not_change_the_trained_tokenizer() -> None:
    script = (
        "from tests.language_modeling.test_tokenizer import TEXTS, train_tokenizer\n"
        "print(train_tokenizer(TEXTS, 330).to_str())"
    )
    found = set()
    for threads, hash_seed in (("1", "1"), ("4", "2")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    pieces = [piece for text in TEXTS for piece in _cut_small([text])]
    assert found == {train_tokenizer(pieces, 330).to_str()}


def _cut_small(texts: list[str], size: int = 40) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PIECE_CHARS", size)
        return list(cut(texts))


ODD_PARTS = train_tokenizer(["it's\u00a0é?!\x1c?!\t12\r\n  word?!\x1c \n" * 9, "é\u00a0\t?! word's" * 9], 300)
"""Has merges over all kinds of white space, as far as there can be any."""


@settings(deadline=None)
@example(["abcdef", " ", "?!", "\x1c", "?!", "?!", " word"], 5)
@given(
    st.lists(
        st.sampled_from(["word", " ", "\n", "\r\n", "'s", "12", "?!", "\t", "  ", "é", "\u00a0", "\x1c", "x" * 9])
    ),
    st.integers(0, 50),
)
def test_tokenizing_in_pieces_matches_tokenizing_the_whole(parts: list[str], where: int) -> None:
    text = "".join(parts)
    pieces = _cut_small([text[:where], text[where:]], 12)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 12 for piece in pieces)
    assert pieces == _cut_small([text], 12), "it does not matter how the text arrives"
    if all(len(run) < 12 for run in _uncuttable_runs(text)):
        assert [token for piece in pieces for token in ODD_PARTS.encode(piece).ids] == ODD_PARTS.encode(text).ids


def _uncuttable_runs(text: str) -> list[str]:
    """The parts of a text between positions where cutting is harmless, found letter by letter."""
    runs = [""]
    for before, letter in zip(" " + text, text, strict=False):
        if letter in " \n" and not before.isspace():
            runs.append("")
        runs[-1] += letter
    return runs


def test_a_text_without_white_space_is_cut_without_loss() -> None:
    text = "天" * 100_000
    pieces = list(cut([text[:30_001], text[30_001:]]))
    assert "".join(pieces) == text
    assert [len(piece) for piece in pieces] == [16_384] * 6 + [1_696]
