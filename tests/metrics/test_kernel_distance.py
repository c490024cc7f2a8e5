"""Properties of the kernel distance; tests/metrics/agreement.py compares it with torch-fidelity's."""

import numpy as np
import pytest

from experiments.metrics import feature_distances as module
from experiments.metrics.feature_distances import cross_kernel, kernel_distance, own_kernel


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return kernel_distance(own_kernel(a), own_kernel(b), cross_kernel(a, b))


def test_the_kernel_distance_does_not_depend_on_how_many_rows_are_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(11, 5)) + 0.5
    at_once = distance(a, b)
    monkeypatch.setattr(module, "ROWS", 3)
    assert distance(a, b) == pytest.approx(at_once, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    found = [distance(rng.normal(size=(4, 3)), rng.normal(size=(4, 3))) for _ in range(2000)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_kernel_sums_of_float32_features_are_computed_in_float64() -> None:
    a = np.random.default_rng(0).uniform(0, 2, (50, 300)).astype(np.float32)
    assert own_kernel(a) == pytest.approx(own_kernel(a.astype(np.float64)), rel=1e-12)
