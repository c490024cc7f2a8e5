"""Language modelling, autoregressive or masked, on packed tokens."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor, nn

from experiments.data.sample import sample
from experiments.harness.errors import ConfigError
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.document_choice import chosen, redrawn
from experiments.language_modeling.models import build_model
from experiments.language_modeling.token_files import TokenSet, TokenSplit
from experiments.metrics.perplexity import perplexity_metrics

MOST_BYTES_A_WORD = 35
"""Between two spaces, in UTF-8. Languages that part words by spaces stay below, also where a letter has 3 bytes (Hindi
14, Tamil 28); Chinese, Japanese, Thai, Khmer have whole clauses or paragraphs there."""
MOST_WORDLESS = 0.1
"""Share of the text in documents above that, for which metrics by words are still given."""


class LanguageModeling:
    """Sequences to train on, documents to be tested on, and the objective that the config names."""

    def __init__(self, cfg: LanguageModelingConfig, tokens: TokenSet) -> None:
        if tokens.vocab_size > cfg.data.vocab_size:
            raise ConfigError(
                f"data={cfg.data.name} was packed with {tokens.vocab_size} tokens, more than data.vocab_size="
                f"{cfg.data.vocab_size}."
            )
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
                    f"study.{key}_metric={named} goes by words, but spaces do not part words in data={cfg.data.name}: "
                    f"choose {named.partition('/')[0]}/log_perplexity or bits_per_byte."
                )

    def model(self) -> nn.Module:
        """A transformer drawn from PyTorch's global generator."""
        return build_model(self._cfg)

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """``inputs`` and ``targets``, int64 ``[N, context_length]``."""
        inputs, targets = self._objective.inputs_and_targets(
            self._sequences[indices], seeds, self._cfg.data.vocab_size, self._tokens.separator
        )
        return {"inputs": inputs, "targets": targets}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood of what is to be predicted, in nats a token."""
        loss: Tensor = self._objective.loss(model, batch)
        return loss

    def evaluate(self, model: nn.Module, split: str, process: int, num_processes: int) -> dict[str, Tensor]:
        """Sums over this process's share of all documents of the split; of "train" flatness.samples drawn
        documents.
        """
        documents = self._tokens.splits[split]
        if split == "train":
            # all of them, where there are fewer
            documents = chosen(documents, sample(len(documents.num_bytes), self._cfg.flatness.samples))
        sums: dict[str, Tensor] = self._objective.sums(
            model, documents, self._cfg.context_length, self._cfg.data.vocab_size, process, num_processes
        )
        if not self._has_words:
            sums.pop("words", None)
        return sums

    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """Perplexities and their kin; see experiments/metrics/perplexity.py. Those by words where spaces part words."""
        return perplexity_metrics(sums)

    def example_losses(self, sums: dict[str, Any]) -> tuple[str, np.ndarray]:
        """What each document of the test, or with hidden tokens each sequence, adds to log_perplexity, times their
        number: long ones weigh as much as their tokens.
        """
        nats = np.array(sums["nats_each"])
        return "log_perplexity", nats * len(nats) / sums["count"]


def spaces_part_words(splits: Sequence[TokenSplit]) -> bool:
    """Whether white space stands between the words of these texts, as it does not in Chinese or Thai; told by how much
    text stands between two spaces.
    """
    num_bytes, num_words = (
        np.concatenate([getattr(split, sizes) for split in splits]) for sizes in ("num_bytes", "num_words")
    )
    wordless = num_bytes > MOST_BYTES_A_WORD * num_words
    return bool(num_bytes[wordless].sum() <= MOST_WORDLESS * num_bytes.sum())


def build(cfg: LanguageModelingConfig, data: TokenSet) -> LanguageModeling:
    """The task over its packed tokens."""
    return LanguageModeling(cfg, data if cfg.data.split_seed is None else redrawn(data, cfg.data.split_seed))
