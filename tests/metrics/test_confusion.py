"""Scores of confusion matrices against their definitions, written out."""

import math

import numpy as np
import pytest
import torch

from experiments.metrics.confusion import accuracy, confusion_matrix, f1, macro_f1, matthews


def samples(classes: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, count)
    return labels, np.where(rng.random(count) < 0.6, labels, rng.integers(0, classes, count))


def matrix_of(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    return confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predictions), classes).numpy()


@pytest.mark.parametrize("classes", [2, 5])
def test_f1_and_accuracy_match_counting_samples(classes: int) -> None:
    labels, predictions = samples(classes)
    matrix = matrix_of(labels, predictions, classes)
    scores = []
    for label in range(classes):
        hits = sum((labels == label) & (predictions == label))
        precision, recall = hits / sum(predictions == label), hits / sum(labels == label)
        scores.append(100 * 2 * precision * recall / (precision + recall))
        assert f1(matrix, label) == pytest.approx(scores[-1])
    assert macro_f1(matrix) == pytest.approx(sum(scores) / classes)
    assert accuracy(matrix) == pytest.approx(100 * (labels == predictions).mean())


def test_matthews_equals_the_pearson_correlation_of_two_classes() -> None:
    labels, predictions = samples(2)
    assert matthews(matrix_of(labels, predictions, 2)) == pytest.approx(100 * np.corrcoef(labels, predictions)[0, 1])


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
