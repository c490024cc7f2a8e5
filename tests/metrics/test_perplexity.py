"""Perplexities by hand."""

import math

import pytest

from experiments.metrics.perplexity import perplexity_metrics


def test_a_uniform_models_perplexity_is_the_vocabulary_size() -> None:
    # "ab cd" as five tokens of one byte each, predicted uniformly among 256
    metrics = perplexity_metrics({"nats": 5 * math.log(256), "count": 5, "bytes": 5, "words": 2})
    assert metrics["perplexity"] == pytest.approx(256)
    assert metrics["log_perplexity"] == metrics["loss"] == pytest.approx(math.log(256))
    assert metrics["bits_per_byte"] == pytest.approx(8)
    assert metrics["word_perplexity"] == pytest.approx(256**2.5)
    assert metrics["word_log_perplexity"] == pytest.approx(2.5 * math.log(256))


def test_without_byte_and_word_counts_only_token_metrics_are_reported() -> None:
    assert set(perplexity_metrics({"nats": 3.0, "count": 2})) == {"loss", "log_perplexity", "perplexity"}


def test_an_overflowing_perplexity_is_infinite() -> None:
    assert perplexity_metrics({"nats": 2000.0, "count": 2})["perplexity"] == math.inf
