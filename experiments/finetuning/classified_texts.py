"""A split in the form of a classifier's inputs."""

import numpy as np
import torch
from torch import Tensor

from experiments.pretrained.locked import Inputs, joined


class ClassifiedTexts:
    """One split as inputs of the classifier, with its labels."""

    def __init__(self, inputs: Inputs, lengths: np.ndarray, labels: np.ndarray) -> None:
        """``lengths`` are the texts' lengths in the inputs' second dimension, ``labels`` the classes, int64 [texts]."""
        self.lengths, self.labels, self._inputs = lengths, labels, inputs

    def batch(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """The texts ``numbers``, truncated to the longest of them: padding does not affect results, but takes time."""
        inputs = self._inputs(numbers)[:, : int(self.lengths[numbers].max())]
        return {"inputs": inputs, "labels": torch.from_numpy(self.labels[numbers])}

    def chosen(self, numbers: np.ndarray) -> "ClassifiedTexts":
        """A split of the texts ``numbers`` (int64 [texts])."""
        return ClassifiedTexts(lambda of: self._inputs(numbers[of]), self.lengths[numbers], self.labels[numbers])

    def and_then(self, other: "ClassifiedTexts") -> "ClassifiedTexts":
        """Both splits concatenated, this one first."""
        inputs = joined(self._inputs, len(self.labels), other._inputs)
        lengths, labels = (
            np.concatenate([getattr(each, name) for each in (self, other)]) for name in ("lengths", "labels")
        )
        return ClassifiedTexts(inputs, lengths, labels)
