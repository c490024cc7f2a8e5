"""Divide a split into windows such that every token of every document is predicted exactly once.

This is the rolling log-likelihood of lm-evaluation-harness: the first token of a document is predicted only from the
separator before it; windows are as long as the context and predict disjoint tokens; the last window starts earlier if
it has fewer tokens to predict, to use the full context. Windows never cross documents, so the result does not depend on
the order of the documents.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.language_modeling.likelihood import UNCOUNTED


@dataclass(frozen=True)
class Windows:
    """Windows by index. Window ``w`` reads the tokens ``[starts[w], starts[w] + lengths[w])``, including the separator
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
