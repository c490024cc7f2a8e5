"""Training sequences and evaluation windows, and the negative log-likelihood of their tokens under a model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.harness.errors import DataError
from experiments.harness.task import in_parts

UNCOUNTED = -100
"""The target of a position that does not count, PyTorch's ignore_index"""
LOGITS_IN_MEMORY = 2**27
"""Summed at once: 512 MiB in float32. Sums depend on it only through rounding."""
LOGITS_IN_CACHE = 2**20
"""Of these, in one forward pass on a CPU"""


def token_nats(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood float32 ``[N * T]`` for inputs and targets int64 ``[N, T]``; 0 if UNCOUNTED."""
    logits = model(inputs).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=UNCOUNTED, reduction="none")


def rows_at_once(context_length: int, vocab_size: int) -> int:
    """The rows that are summed at once."""
    return max(1, LOGITS_IN_MEMORY // (context_length * vocab_size))


def summed_nats(
    model: nn.Module,
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    numbers: np.ndarray,
    texts: np.ndarray,
    context_length: int,
    vocab_size: int,
) -> dict[str, Tensor]:
    """``nats_each``, the sums over the counted tokens of each text (0 if another process has its rows), ``nats``, the
    sum over all of them, and ``count``, the number of these tokens; float64.

    ``read`` returns inputs and targets of the rows ``numbers``, at most ``context_length`` long; ``texts`` int64 ``[all
    rows]`` is the text that each row belongs to.
    """
    device = next(model.parameters()).device
    sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in ("nats", "count")}
    sums["nats_each"] = torch.zeros(int(texts.max()) + 1, dtype=torch.float64, device=device)
    rows = rows_at_once(context_length, vocab_size)
    rows_in_cache = max(1, LOGITS_IN_CACHE // (context_length * vocab_size))
    for start in range(0, len(numbers), rows):
        batch_numbers = numbers[start : start + rows]
        inputs, targets = (tensor.to(device) for tensor in read(batch_numbers))
        nats = in_parts(partial(token_nats, model), rows_in_cache, inputs, targets)
        sums["nats"] += nats.sum(dtype=torch.float64)
        of_rows = nats.view(len(batch_numbers), -1).sum(1, dtype=torch.float64)
        sums["nats_each"].index_add_(0, torch.from_numpy(texts[batch_numbers]).to(device), of_rows)
        sums["count"] += (targets != UNCOUNTED).sum()
    return sums


class Sequences:
    """Sequences of ``length`` tokens, ``stride`` apart. The last one is moved back to end with the last token, so that
    no token is lost and no padding is needed.
    """

    def __init__(self, tokens: np.ndarray, length: int, stride: int) -> None:
        if len(tokens) < length:
            raise DataError(
                f"There are {len(tokens)} tokens, but one sequence needs {length}: choose a shorter context_length."
            )
        self._tokens, self._length, self._stride = tokens, length, stride

    def __len__(self) -> int:
        return 1 + -(-(len(self._tokens) - self._length) // self._stride)

    def __getitem__(self, numbers: np.ndarray) -> Tensor:
        """Sequences by index, int64 ``[N, length]``."""
        starts = np.minimum(numbers * self._stride, len(self._tokens) - self._length)
        return torch.from_numpy(self._tokens[starts[:, None] + np.arange(self._length)].astype(np.int64))


@dataclass(frozen=True)
class Windows:
    """Windows in which every token of every document is predicted exactly once, by index.

    This is the rolling log-likelihood of lm-evaluation-harness: the first token of a document is predicted only from
    the separator before it; windows are as long as the context and predict disjoint tokens; the last window starts
    earlier if it has fewer tokens to predict, to use the full context. Windows never cross documents, so the result
    does not depend on the order of the documents.

    Window ``w`` reads the tokens ``[starts[w], starts[w] + lengths[w])``, including the separator
    if it is the document's first window, and predicts the tokens that follow the last ``counted[w]`` of them.
    """

    starts: np.ndarray
    lengths: np.ndarray
    counted: np.ndarray
    documents: np.ndarray
    """the document of each window"""

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, tokens: np.ndarray, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 ``[N, longest]``. Shorter windows are padded on the right, which a causal model does
        not see, with tokens whose targets are UNCOUNTED.
        """
        starts, lengths, counted = self.starts[numbers], self.lengths[numbers], self.counted[numbers]
        places = np.arange(lengths.max())
        at = np.minimum(starts[:, None] + places, len(tokens) - 1)
        after = np.minimum(at + 1, len(tokens) - 1)
        counts = (places < lengths[:, None]) & (places >= (lengths - counted)[:, None])
        targets = np.where(counts, tokens[after].astype(np.int64), UNCOUNTED)
        return torch.from_numpy(tokens[at].astype(np.int64)), torch.from_numpy(targets)


def windows_of(document_starts: np.ndarray, context_length: int) -> Windows:
    """The windows of documents whose separators are at ``document_starts`` (int64 ``[documents + 1]``, ending with the
    number of tokens), longest first, so that windows in one batch have similar lengths.
    """
    sizes = np.diff(document_starts) - 1  # tokens to predict
    windows = -(-sizes // context_length)
    document = np.repeat(np.arange(len(sizes)), windows)
    number = np.arange(len(document)) - np.repeat(np.cumsum(windows) - windows, windows)
    predicted_before = number * context_length
    counted = np.minimum(sizes[document] - predicted_before, context_length)
    lengths = np.minimum(sizes[document], context_length)
    starts = document_starts[document] + predicted_before + counted - lengths
    order = np.argsort(-lengths, kind="stable")
    return Windows(starts[order], lengths[order], counted[order], document[order])
