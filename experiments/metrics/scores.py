"""Scores of predictions, in percent: from a confusion matrix, or correlations of two series.

Matrices add up over batches and processes, so every score is exact. A matrix is an array ``[classes, classes]`` of
counts, with true classes as rows and predicted ones as columns. A score whose denominator is 0 (a class that is never
predicted, or does not occur) is 0.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def confusion_matrix(labels: "Tensor", predictions: "Tensor", num_classes: int) -> "Tensor":
    """Counts float64 ``[num_classes, num_classes]`` from int64 ``[N]`` and ``[N]``."""
    cells = (labels * num_classes + predictions).bincount(minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).double()


def accuracy(matrix: np.ndarray) -> float:
    """The share of correct predictions."""
    return float(100 * np.trace(matrix) / matrix.sum())


def f1(matrix: np.ndarray, label: int) -> float:
    """The harmonic mean of precision and recall for the class ``label``."""
    concerned = matrix[label].sum() + matrix[:, label].sum()
    return float(200 * matrix[label, label] / concerned) if concerned else 0.0


def macro_f1(matrix: np.ndarray) -> float:
    """The mean of the classes' F1."""
    return sum(f1(matrix, label) for label in range(len(matrix))) / len(matrix)


def matthews(matrix: np.ndarray) -> float:
    """Matthews correlation coefficient, at most 100; for more than two classes as generalized by Gorodkin 2004."""
    count, true, predicted = matrix.sum(), matrix.sum(1), matrix.sum(0)
    spread = (count**2 - true @ true) * (count**2 - predicted @ predicted)
    return float(100 * (count * np.trace(matrix) - true @ predicted) / math.sqrt(spread)) if spread else 0.0


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two series ``[N]``, -100 to 100; 0 if one of them is constant."""
    a, b = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (first, second))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return 0.0 if constant else float(100 * (a @ b) / norms)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman correlation: Pearson correlation of the ranks, where equal values share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(first), rankdata(second))
