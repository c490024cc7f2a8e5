"""The kernel distance against its definition, pair by pair."""

import itertools

import numpy as np
import pytest

from experiments.metrics import feature_distances as module
from experiments.metrics.feature_distances import cross_kernel, kernel_distance, own_kernel


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((np.dot(x, y) / len(x) + 1) ** 3)


def by_pairs(a: np.ndarray, b: np.ndarray) -> float:
    own = [np.mean([kernel(x, y) for x, y in itertools.permutations(one, 2)]) for one in (a, b)]
    return float(sum(own) - 2 * np.mean([kernel(x, y) for x in a for y in b]))


@pytest.mark.parametrize("rows", [3, 1000])
def test_kernel_distance_matches_its_definition_over_pairs(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(11, 5)) + 0.5
    assert kernel_distance(own_kernel(a), own_kernel(b), cross_kernel(a, b)) == pytest.approx(by_pairs(a, b), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        a, b = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
        found.append(kernel_distance(own_kernel(a), own_kernel(b), cross_kernel(a, b)))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_kernel_sums_of_float32_features_are_computed_in_float64() -> None:
    a = np.random.default_rng(0).uniform(0, 2, (50, 300)).astype(np.float32)
    assert own_kernel(a) == pytest.approx(own_kernel(a.astype(np.float64)), rel=1e-12)
