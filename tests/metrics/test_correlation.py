"""Correlations against scipy's."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from experiments.metrics.correlation import pearson, spearman


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_correlations_match_scipy_with_and_without_ties(digits: int) -> None:
    rng = np.random.default_rng(digits)
    first = np.round(rng.uniform(0, 5, 100), digits)
    second = np.round(np.clip(first + rng.normal(0, 1, 100), 0, 5), digits)
    assert pearson(first, second) == pytest.approx(100 * pearsonr(first, second).statistic)
    assert spearman(first, second) == pytest.approx(100 * spearmanr(first, second).statistic)


def test_a_monotone_curve_has_a_rank_correlation_of_100_percent() -> None:
    values = np.arange(10.0)
    assert spearman(values, values**3) == pytest.approx(100)
    assert pearson(values, -values) == pytest.approx(-100)


def test_a_constant_series_has_zero_correlation() -> None:
    assert pearson(np.full(5, 0.1), np.arange(5.0)) == 0
    assert spearman(np.arange(5.0), np.full(5, 3.3)) == 0
