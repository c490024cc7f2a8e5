"""A split as windows in which every token of every document is predicted exactly once.

This is the rolling log-likelihood of lm-evaluation-harness: a document begins after a separator, which is all that its
first token is predicted from; its windows are as long as the context and disjoint in what they predict; where the last
one has fewer tokens to predict, it reaches back and sees a whole context. No window looks into another document, so the
result does not depend on the documents' order.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.language_modeling.likelihood import UNCOUNTED


@dataclass(frozen=True)
class Windows:
    """Windows by number. Window ``w`` reads the tokens ``[starts[w], starts[w] + lengths[w])``, the separator of its
    document among them where it comes first, and predicts the last ``counted[w]`` of those one place later.
    """

    starts: np.ndarray
    lengths: np.ndarray
    counted: np.ndarray
    documents: np.ndarray
    """of which each window is a part"""

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, tokens: np.ndarray, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 ``[N, longest]``. Shorter windows are filled up on the right, where a model that
        reads from the left does not see it, with tokens whose targets are UNCOUNTED.
        """
        starts, lengths, counted = self.starts[numbers], self.lengths[numbers], self.counted[numbers]
        places = np.arange(lengths.max())
        at = np.minimum(starts[:, None] + places, len(tokens) - 1)
        after = np.minimum(at + 1, len(tokens) - 1)
        counts = (places < lengths[:, None]) & (places >= (lengths - counted)[:, None])
        targets = np.where(counts, tokens[after].astype(np.int64), UNCOUNTED)
        return torch.from_numpy(tokens[at].astype(np.int64)), torch.from_numpy(targets)


def windows_of(document_starts: np.ndarray, context_length: int) -> Windows:
    """The windows of documents whose separators are at ``document_starts`` (int64 ``[documents + 1]``, the last being
    the number of tokens), the longest windows first, so that those read together are of like length.
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
