"""Autoregressive language modelling: predict every token from those before it."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from experiments.language_modeling.data import TokenSplit
from experiments.language_modeling.likelihood import Sequences, summed_nats, windows_of

EXTRA_TOKENS = 0
"""tokens that the model needs in addition to the tokenizer's"""


def sequences(tokens: np.ndarray, context_length: int) -> Sequences:
    """The training sequences; each begins with the last token of the previous one."""
    return Sequences(tokens, context_length + 1, context_length)


def inputs_and_targets(tokens: Tensor, seeds: list[int], vocab_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 ``[N, context_length]``, of sequences int64 ``[N, context_length + 1]``."""
    return tokens[:, :-1], tokens[:, 1:]


def mean_loss(nats: Tensor, targets: Tensor) -> Tensor:
    """Mean of the targets' negative log-likelihoods ``[N * T]``."""
    return nats.mean()


def sums(
    model: nn.Module, split: TokenSplit, context_length: int, vocab_size: int, process: int, num_processes: int
) -> dict[str, Tensor]:
    """Sums over this process's share of the split: ``nats``, also per document, ``count`` (predicted tokens), ``bytes``
    and ``words``.
    """
    windows = windows_of(split.starts, context_length)
    mine = np.arange(process, len(windows), num_processes)
    read = partial(windows.read, split.tokens)
    sums = summed_nats(model, read, mine, windows.documents, context_length, vocab_size)
    for name, sizes in (("bytes", split.num_bytes), ("words", split.num_words)):
        sums[name] = torch.tensor(float(sizes[process::num_processes].sum()), dtype=torch.float64).to(sums["nats"])
    return sums
