"""Windows against lm-evaluation-harness's definition of the rolling log-likelihood, written out for one document."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.harness.errors import DataError
from experiments.language_modeling.likelihood import UNCOUNTED, Sequences, windows_of

SEPARATOR = 0


def rolling_windows(document: list[int], context: int) -> Iterator[tuple[list[int], list[int]]]:
    """Windows of one document as (input, scored part of the continuation), with at least one token of context."""
    first = min(context, len(document))
    if first:
        yield [SEPARATOR, *document[: first - 1]], document[:first]
    done = first
    while done < len(document):
        end = done + min(len(document) - done, context)
        yield document[end - context - 1 : end - 1], document[done:end]
        done = end


def packed(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([token for document in documents for token in (SEPARATOR, *document)], np.uint16)
    return tokens, np.cumsum([0, *(len(document) + 1 for document in documents)])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 9))
def test_windows_match_lm_evaluation_harness_per_document(sizes: list[int], context: int) -> None:
    documents = [[100 * number + place + 1 for place in range(size)] for number, size in enumerate(sizes)]
    tokens, starts = packed(documents)
    windows = windows_of(starts, context)
    found = []
    for number in range(len(windows)):
        inputs, targets = windows.read(tokens, np.array([number]))
        counted = targets[0][targets[0] != UNCOUNTED].tolist()
        found.append((inputs[0].tolist(), counted))
        assert targets[0].tolist()[-len(counted) :] == counted
    expected = [window for document in documents for window in rolling_windows(document, context)]
    assert sorted(found) == sorted(expected)
    assert windows.counted.sum() == sum(sizes)


def test_windows_of_a_batch_are_padded_on_the_right() -> None:
    tokens, starts = packed([[1, 2, 3, 4, 5], [6, 7]])
    windows = windows_of(starts, 3)
    inputs, targets = windows.read(tokens, np.arange(3))
    assert inputs.tolist()[:2] == [[0, 1, 2], [2, 3, 4]]
    assert targets.tolist() == [[1, 2, 3], [-100, 4, 5], [6, 7, -100]]
    assert inputs[2].tolist()[:2] == [0, 6]


@settings(max_examples=200, deadline=None)
@given(st.integers(6, 60), st.integers(2, 5))
def test_sequences_cover_every_token(num_tokens: int, context: int) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint16)
    sequences = Sequences(tokens, context + 1, context)
    rows = sequences[np.arange(len(sequences))].numpy()
    assert (np.diff(rows, axis=1) == 1).all()
    predicted = rows[:, 1:].ravel()
    assert set(predicted.tolist()) == set(range(1, num_tokens))
    # only the last sequence may repeat what another one predicts
    assert len(predicted) - (num_tokens - 1) < context
    assert sequences[np.array([len(sequences) - 1])][0, -1] == num_tokens - 1


def test_too_few_tokens_for_a_sequence_are_refused() -> None:
    with pytest.raises(DataError, match="There are 4 tokens, but one sequence needs 5"):
        Sequences(np.arange(4), 5, 4)
