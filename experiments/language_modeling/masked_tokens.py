"""Masked language modelling, BERT's objective: predict masked tokens from both sides (Devlin et al. 2019, section
3.1).
"""

import numpy as np
import torch
from torch import Tensor, nn

from experiments.harness.seeds import derive_seed
from experiments.language_modeling.data import TokenSplit
from experiments.language_modeling.likelihood import UNCOUNTED, Sequences, summed_nats
from experiments.language_modeling.packing import SEPARATOR_ID

EXTRA_TOKENS = 1
"""The mask token, which the tokenizer lacks; its index follows the tokenizer's last."""
HIDDEN_SHARE = 0.15
"""Share of the tokens that are predicted."""
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Shares of these that are replaced by the mask and by a random token; the rest is left unchanged."""


def sequences(tokens: np.ndarray, context_length: int) -> Sequences:
    """The training sequences."""
    return Sequences(tokens, context_length, context_length)


def inputs_and_targets(tokens: Tensor, seeds: list[int], vocab_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 ``[N, T]``, of sequences int64 ``[N, T]``; targets are UNCOUNTED except for hidden
    tokens.

    A sequence's seed decides which of its tokens are hidden, and how: 15 % of its length, but never a separator.
    """
    inputs, targets = tokens.clone(), torch.full_like(tokens, UNCOUNTED)
    hidden_tokens = max(1, round(HIDDEN_SHARE * tokens.shape[1]))
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        words = np.flatnonzero(tokens[row].numpy() != SEPARATOR_ID)
        hidden = rng.permutation(words)[:hidden_tokens]
        targets[row, hidden] = tokens[row, hidden]
        way = rng.random(len(hidden))
        others = torch.from_numpy(rng.integers(0, vocab_size, len(hidden)))
        at_random = (way >= MASKED_SHARE) & (way < MASKED_SHARE + RANDOM_SHARE)
        inputs[row, hidden[way < MASKED_SHARE]] = vocab_size
        inputs[row, hidden[at_random]] = others[at_random]
    return inputs, targets


def mean_loss(nats: Tensor, targets: Tensor) -> Tensor:
    """Mean of the hidden tokens' negative log-likelihoods among ``nats`` ``[N * T]``."""
    return nats.sum() / (targets != UNCOUNTED).sum()


def sums(
    model: nn.Module, split: TokenSplit, context_length: int, vocab_size: int, process: int, num_processes: int
) -> dict[str, Tensor]:
    """Sums ``nats``, also per sequence, and ``count`` (hidden tokens) over this process's share of a split, in which
    the same tokens are always hidden.
    """
    rows = sequences(split.tokens, context_length)

    def read(numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        seeds = [derive_seed(0, "hidden tokens", int(number)) for number in numbers]
        return inputs_and_targets(rows[numbers], seeds, vocab_size)

    mine = np.arange(process, len(rows), num_processes)
    return summed_nats(model, read, mine, np.arange(len(rows)), context_length, vocab_size)
