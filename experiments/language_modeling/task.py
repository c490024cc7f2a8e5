"""The language modelling task, autoregressive or masked, on packed tokens."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor, nn

from experiments.data.splits import sample
from experiments.harness.errors import ConfigError
from experiments.harness.flatness import flatness
from experiments.harness.task import Evaluator
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.data import TokenSet, TokenSplit, chosen, redrawn
from experiments.language_modeling.models import build_model, training_loss
from experiments.metrics.perplexity import perplexity_metrics

MOST_BYTES_A_WORD = 35
"""Largest average number of UTF-8 bytes between spaces. Languages that separate words by spaces stay below it, even
with 3 bytes per letter (Hindi 14, Tamil 28); Chinese, Japanese, Thai and Khmer have whole clauses or paragraphs there.
"""
MOST_WORDLESS = 0.1
"""Largest share of text in documents above that limit for which per-word metrics are still computed."""


class LanguageModeling:
    """Training sequences, documents for evaluation, and the objective named by the config."""

    def __init__(self, cfg: LanguageModelingConfig, tokens: TokenSet) -> None:
        self._cfg, self._tokens = cfg, tokens
        self._objective: Any = import_module(cfg.objective)
        self._sequences = self._objective.sequences(tokens.splits["train"].tokens, cfg.context_length)
        self.num_train = len(self._sequences)
        self.frozen_outputs: dict[str, str] = {}
        self._has_words = spaces_part_words([tokens.splits["val"], tokens.splits["test"]])
        study = cfg.study
        for key, named in (("primary", study.primary_metric), ("validation", study.validation_metric)):
            if "/word_" in named and not self._has_words:
                raise ConfigError(
                    f"study.{key}_metric={named} counts words, but data={cfg.data.name} does not separate words by "
                    f"spaces: choose {named.partition('/')[0]}/log_perplexity or bits_per_byte."
                )

        self.evaluators = {
            "val": Evaluator("evaluate", partial(self._sums, "val"), perplexity_metrics),
            "test": Evaluator("end", partial(self._sums, "test"), perplexity_metrics, _example_losses),
            **flatness(cfg, len(tokens.splits["train"].num_bytes), partial(self._sums, "train"), perplexity_metrics),
        }

    def model(self) -> nn.Module:
        """A transformer initialized from PyTorch's global generator."""
        return build_model(self._cfg)

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """``inputs`` and ``targets``, int64 ``[N, context_length]``."""
        sequences = self._sequences[indices]
        inputs, targets = self._objective.inputs_and_targets(sequences, seeds, self._cfg.data.vocab_size)
        return {"inputs": inputs, "targets": targets}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood of the predicted tokens, in nats per token."""
        return training_loss(model, self._cfg, batch["inputs"], batch["targets"])

    def _sums(self, split: str, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Sums over all documents of the split, or for "train" over flatness.samples randomly chosen ones.
        Words only if spaces separate them.
        """
        documents = self._tokens.splits[split]
        if split == "train":
            documents = chosen(documents, sample(len(documents.num_bytes), self._cfg.flatness.samples))
        sums: dict[str, Tensor] = self._objective.sums(
            model, documents, self._cfg.context_length, self._cfg.data.vocab_size, process, num_processes
        )
        if not self._has_words:
            sums.pop("words", None)
        return sums


def _example_losses(sums: dict[str, Any]) -> tuple[str, np.ndarray]:
    """The contribution of each test document (of each sequence for masked models) to log_perplexity, times their
    number, so that documents are weighted by their tokens.
    """
    nats = np.array(sums["nats_each"])
    return "log_perplexity", nats * len(nats) / sums["count"]


def spaces_part_words(splits: Sequence[TokenSplit]) -> bool:
    """Whether white space separates the words of these texts, unlike in Chinese or Thai, judged by how much text there
    is between spaces.
    """
    num_bytes, num_words = (
        np.concatenate([getattr(split, sizes) for split in splits]) for sizes in ("num_bytes", "num_words")
    )
    wordless = num_bytes > MOST_BYTES_A_WORD * num_words
    return bool(num_bytes[wordless].sum() <= MOST_WORDLESS * num_bytes.sum())


def build(cfg: LanguageModelingConfig, data: TokenSet) -> LanguageModeling:
    """The task over its packed tokens."""
    return LanguageModeling(cfg, data if cfg.data.split_seed is None else redrawn(data, cfg.data.split_seed))
