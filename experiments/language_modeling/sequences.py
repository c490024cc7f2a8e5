"""The training split as sequences of equal length, cut from its tokens across document boundaries."""

import numpy as np
import torch
from torch import Tensor

from experiments.harness.errors import DataError


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
