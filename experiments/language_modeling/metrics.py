"""The metrics of language modelling."""

from experiments.harness.metric import Metric

METRICS = {
    "log_perplexity": Metric("log-perplexity", "lower", unit="nats"),
    "perplexity": Metric("perplexity", "lower", decimals=2),
    "word_log_perplexity": Metric("word-level log-perplexity", "lower", unit="nats"),
    "word_perplexity": Metric("word-level perplexity", "lower", decimals=2),
    "bits_per_byte": Metric("bits per byte", "lower"),
}
