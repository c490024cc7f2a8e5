"""A split as a classifier takes it."""

import numpy as np
import torch
from torch import Tensor

from experiments.pretrained.locked import Inputs, joined


class ClassifiedTexts:
    """One split as the classifier takes it, and its labels."""

    def __init__(self, inputs: Inputs, lengths: np.ndarray, labels: np.ndarray) -> None:
        """``lengths`` are what is needed of the inputs' second dimension, ``labels`` the classes, int64 [texts]."""
        self.lengths, self.labels, self._inputs = lengths, labels, inputs

    def batch(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """The texts ``numbers``, cut to the longest of them: padding changes no result, but takes its time."""
        inputs = self._inputs(numbers)[:, : int(self.lengths[numbers].max())]
        return {"inputs": inputs, "labels": torch.from_numpy(self.labels[numbers])}

    def chosen(self, numbers: np.ndarray) -> "ClassifiedTexts":
        """The texts ``numbers`` (int64 [texts]) as a split of their own."""
        return ClassifiedTexts(lambda of: self._inputs(numbers[of]), self.lengths[numbers], self.labels[numbers])

    def and_then(self, other: "ClassifiedTexts") -> "ClassifiedTexts":
        """Both splits as one, this one's texts first."""
        inputs = joined(self._inputs, len(self.labels), other._inputs)
        lengths, labels = (
            np.concatenate([getattr(each, name) for each in (self, other)]) for name in ("lengths", "labels")
        )
        return ClassifiedTexts(inputs, lengths, labels)
