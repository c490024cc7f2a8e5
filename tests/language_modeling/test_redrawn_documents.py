"""A different choice of documents held out for validation."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments.language_modeling.data import TokenSet, TokenSplit, redrawn
from tests.conftest import MakeConfig, executed, values_of
from tests.language_modeling.test_windows import SEPARATOR, packed

Numbered = dict[str, list[tuple[list[int], int, int]]]


def token_set(documents: dict[str, list[list[int]]]) -> TokenSet:
    """Documents whose first token determines their bytes and words."""
    splits = {}
    for name, own in documents.items():
        tokens, starts = packed(own)
        first = np.array([document[0] for document in own])
        splits[name] = TokenSplit(tokens, starts, 10 * first, 100 * first)
    return TokenSet(Path(), "f" * 64, splits)


def read(tokens: TokenSet) -> Numbered:
    """Each split's documents with their bytes and words, cut at their starts in plain Python."""
    found: Numbered = {}
    for name, split in tokens.splits.items():
        starts = split.starts.tolist()
        assert all(split.tokens[start] == SEPARATOR for start in starts[:-1])
        texts = [split.tokens[a + 1 : b].tolist() for a, b in pairwise(starts)]
        found[name] = list(zip(texts, split.num_bytes.tolist(), split.num_words.tolist(), strict=True))
    return found


@pytest.fixture
def tokens() -> TokenSet:
    numbers = iter(range(1, 1000))
    return token_set(
        {
            name: [[next(numbers)] * (1 + place % 5) for place in range(size)]
            for name, size in (("train", 40), ("val", 8), ("test", 9))
        }
    )


def test_redrawing_moves_whole_documents_between_training_and_validation(tokens: TokenSet) -> None:
    before, after = read(tokens), read(redrawn(tokens, 3))
    assert after["test"] == before["test"]
    assert len(after["val"]) == len(before["val"])
    assert sorted(after["train"] + after["val"]) == sorted(before["train"] + before["val"])


def test_the_split_seed_draws_validation_documents_uniformly_and_reproducibly(tokens: TokenSet) -> None:
    drawn = [read(redrawn(tokens, seed))["val"] for seed in range(200)]
    assert drawn[7] == read(redrawn(tokens, 7))["val"]
    counts: dict[int, int] = {}
    for val in drawn:
        for text, *_ in val:
            counts[text[0]] = counts.get(text[0], 0) + 1
    # Each of 48 documents is one of 8 in a sixth of the draws: 33.3 of 200, with a standard deviation of 5.3.
    assert len(counts) == 48
    assert min(counts.values()) > 12
    assert max(counts.values()) < 55


def test_duplicates_of_a_held_out_document_are_not_trained_on(tokens: TokenSet) -> None:
    twice = token_set({"train": [[n] for n in range(1, 30)] * 2, "val": [[40], [41], [42]], "test": [[50]]})
    for seed in range(20):
        after = read(redrawn(twice, seed))
        held_out = [text for text, *_ in after["val"]]
        assert not [text for text, *_ in after["train"] if text in held_out]


def test_the_split_seed_changes_the_run_name_and_its_metrics(make_lm: MakeConfig) -> None:
    one, other = (executed(make_lm(f"data.split_seed={seed}")) for seed in ("null", "1"))
    assert one.name != other.name
    assert values_of(one, "val/loss")[-1] != values_of(other, "val/loss")[-1]
