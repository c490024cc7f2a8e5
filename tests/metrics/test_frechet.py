"""The Frechet distance against an independent computation, and its required properties."""

import numpy as np
import pytest
import scipy.linalg

from experiments.metrics.feature_distances import covariance_root, frechet_distance, moments, moments_of_sums


def distance(a: np.ndarray, b: np.ndarray) -> float:
    mean, covariance = moments(b)
    return frechet_distance(*moments(a), mean, covariance_root(covariance))


def features(count: int, dimensions: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features like a network's: correlated and non-negative, with a decaying spectrum."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / np.arange(1, dimensions + 1)[:, None]
    return np.maximum(rng.normal(size=(count, dimensions)) @ mixing + shift, 0).astype(np.float32)


@pytest.mark.parametrize(("count", "dimensions"), [(400, 40), (300, 128), (64, 200)])
def test_frechet_distance_matches_scipys_matrix_square_root(count: int, dimensions: int) -> None:
    a, b = features(count, dimensions, 0, 0.1), features(3 * count, dimensions, 1)
    cov_a, cov_b = np.cov(a.astype(np.float64), rowvar=False), np.cov(b.astype(np.float64), rowvar=False)
    # scipy needs a non-singular matrix, even with fewer samples than dimensions
    ridge = 1e-9 * np.eye(dimensions)
    root = scipy.linalg.sqrtm((cov_a + ridge) @ (cov_b + ridge)).real
    shift = a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)
    expected = shift @ shift + np.trace(cov_a + cov_b - 2 * root)
    assert distance(a, b) == pytest.approx(expected, rel=1e-3)


def test_frechet_distance_of_1d_gaussians_has_its_closed_form() -> None:
    mean, deviation, other_mean, other_deviation = 1.5, 2.0, -0.5, 0.3
    found = frechet_distance(
        np.array([mean]), np.array([[deviation**2]]), np.array([other_mean]), np.array([[other_deviation]])
    )
    assert found == pytest.approx((mean - other_mean) ** 2 + (deviation - other_deviation) ** 2)


def test_frechet_distance_is_symmetric_and_zero_between_equal_sets() -> None:
    a, b = features(20, 64, 0), features(30, 64, 1, 0.2)
    assert distance(a, a) == pytest.approx(0, abs=1e-5 * np.trace(np.cov(a, rowvar=False)))
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-5)


def test_frechet_distance_is_finite_with_few_samples_and_falls_with_more() -> None:
    reference = features(5000, 100, 0)
    found = [distance(features(count, 100, 1), reference) for count in (2, 10, 50, 1000)]
    assert np.isfinite(found).all()
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


def test_moments_from_sums_of_batches_match_the_whole() -> None:
    whole = features(50, 8, 0).astype(np.float64)
    total = sum(part.sum(0) for part in np.split(whole, 5))
    outer = sum(part.T @ part for part in np.split(whole, 5))
    mean, covariance = moments_of_sums(50, np.asarray(total), np.asarray(outer))
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(whole, rowvar=False), rtol=1e-9, atol=1e-12)
