"""Perplexities from sums over a whole split."""

import numpy as np


def perplexity_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Perplexities from ``nats``, the summed negative log-likelihood, and ``count``, the number of predicted tokens.

    Returns ``log_perplexity`` (nats per token; also as ``loss``, the name used by every task) and ``perplexity``; if
    ``bytes`` of the original text are given, ``bits_per_byte``; if ``words`` are given, ``word_log_perplexity`` (nats
    per word) and ``word_perplexity``, as PG-19 defines them: the tokens' loss divided by the number of words in the
    text (Rae et al. 2020, section 4.2). Those per byte and per word do not depend on the tokenizer's vocabulary.
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
    """Infinity if it is too large for a float; its logarithm is reported as well."""
    with np.errstate(over="ignore"):
        return np.exp(nats).item()
