"""Perplexities from sums over a whole split."""

import numpy as np


def perplexity_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Perplexities from ``nats``, the summed negative log-likelihood, and ``count``, the number of predicted tokens.

    ``log_perplexity`` (nats a token; ``loss`` is the same number under the name that every task's loss has) and
    ``perplexity``; where ``bytes`` of the original text are given too, ``bits_per_byte``; where ``words``,
    ``word_log_perplexity`` (nats a word) and ``word_perplexity``, as PG-19 defines it: the tokens' loss divided by the
    words of the text (Rae et al. 2020, section 4.2). These do not depend on the tokenizer's vocabulary.
    """
    log_perplexity = sums["nats"] / sums["count"]
    metrics = {"loss": log_perplexity, "log_perplexity": log_perplexity, "perplexity": _exp(log_perplexity)}
    if "bytes" in sums:
        metrics["bits_per_byte"] = sums["nats"] / np.log(2).item() / sums["bytes"]
    if "words" in sums:
        nats_per_word = sums["nats"] / sums["words"]
        metrics |= {"word_log_perplexity": nats_per_word, "word_perplexity": _exp(nats_per_word)}
    return metrics


def _exp(nats: float) -> float:
    """Infinite where it is too large for a float; its logarithm is reported beside it."""
    with np.errstate(over="ignore"):
        return np.exp(nats).item()
