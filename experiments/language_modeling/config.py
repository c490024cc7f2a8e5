"""The metrics that language modelling reports, and the schema of conf/language_modeling.yaml."""

from dataclasses import dataclass

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register
from experiments.harness.metric import Metric

METRICS = {
    "log_perplexity": Metric("log-perplexity", "lower", unit="nats"),
    "perplexity": Metric("perplexity", "lower", decimals=2),
    "word_log_perplexity": Metric("word-level log-perplexity", "lower", unit="nats"),
    "word_perplexity": Metric("word-level perplexity", "lower", decimals=2),
    "bits_per_byte": Metric("bits per byte", "lower"),
}


@dataclass
class TokenDataConfig(DataConfig):
    """Texts, and the tokenizer that is trained on them."""

    access: str = "experiments.language_modeling.data.open_tokens"
    vocab_size: int = MISSING
    """entries of the tokenizer, including the document separator"""
    tokenizer_bytes: int | None = None
    """bytes of training text, from its beginning, that the tokenizer is trained on; null: all of it"""
    held_out_share: float | None = None
    """share of the documents for val and for test, each, if a source has no such splits; a document's text decides its
    split"""
    split_seed: int | None = None
    """redraws the validation documents from those of train and val; null: the set's own choice. Both must fit into
    memory"""
    language: str | None = None
    """only for Wiki-40B: a folder of its repository (en, de, zh-cn, ...)"""


@dataclass
class LanguageModelingConfig(Config):
    """One run of language modelling."""

    data: TokenDataConfig = MISSING
    objective: str = "experiments.language_modeling.next_token"
    """the module of the training objective: this one, or experiments.language_modeling.masked_tokens"""
    context_length: int = MISSING
    """tokens in the model's context"""


register("language_modeling", LanguageModelingConfig)
