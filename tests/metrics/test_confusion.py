"""Scores of confusion matrices by hand; tests/metrics/agreement.py has other implementations of all of them."""

import math

import numpy as np
import pytest
import torch

from experiments.metrics.scores import confusion_matrix, f1, matthews


def samples(classes: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, count)
    return labels, np.where(rng.random(count) < 0.6, labels, rng.integers(0, classes, count))


def matrix_of(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    return confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predictions), classes).numpy()


def test_matthews_matches_a_hand_calculation() -> None:
    # 6 true and 3 false of one class, 1 and 2 of the other: (2 6 - 3 1) / sqrt(9 3 7 5).
    assert matthews(np.array([[6.0, 3.0], [1.0, 2.0]])) == pytest.approx(100 * 9 / math.sqrt(945))


def test_scores_are_zero_for_an_absent_or_never_predicted_class() -> None:
    constant = np.array([[7.0, 0.0], [3.0, 0.0]])
    assert matthews(constant) == 0
    assert f1(constant, 1) == 0
    assert f1(np.array([[7.0, 0.0], [0.0, 0.0]]), 1) == 0


def test_confusion_matrices_of_batches_add_up() -> None:
    labels, predictions = samples(3)
    parts = [matrix_of(labels[start::4], predictions[start::4], 3) for start in range(4)]
    np.testing.assert_array_equal(sum(parts), matrix_of(labels, predictions, 3))
