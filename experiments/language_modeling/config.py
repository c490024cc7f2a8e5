"""The schema of conf/language_modeling.yaml."""

from dataclasses import dataclass

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register


@dataclass
class TokenDataConfig(DataConfig):
    """Texts, and the tokenizer that is trained on them."""

    access: str = "experiments.language_modeling.token_files.open_tokens"
    vocab_size: int = MISSING
    """entries of the tokenizer, the separator of documents included"""
    tokenizer_bytes: int | None = None
    """training text that the tokenizer is trained on, from the start; null: all of it"""
    held_out_share: float | None = None
    """share of the documents, each for val and test, where a place has no such splits of its own; a document's text
    decides where it goes"""
    split_seed: int | None = None
    """draws other documents for validation out of those of train and val; null: the set's own. Both have to fit into
    memory"""
    language: str | None = None
    """of Wiki-40B: a folder of its repository (en, de, zh-cn, ...); null in other sets"""


@dataclass
class LanguageModelingConfig(Config):
    """One run of language modelling."""

    data: TokenDataConfig = MISSING
    objective: str = "experiments.language_modeling.next_token"
    """the module of what is predicted: this one, or experiments.language_modeling.masked_tokens"""
    context_length: int = MISSING
    """tokens that a model sees at a time"""


register("language_modeling", LanguageModelingConfig)
