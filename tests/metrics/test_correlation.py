"""Edge cases of the correlations; tests/metrics/agreement.py compares them with SciPy's."""

import numpy as np
import pytest

from experiments.metrics.scores import pearson, spearman


def test_a_monotone_curve_has_a_rank_correlation_of_100_percent() -> None:
    values = np.arange(10.0)
    assert spearman(values, values**3) == pytest.approx(100)
    assert pearson(values, -values) == pytest.approx(-100)


def test_a_constant_series_has_zero_correlation() -> None:
    assert pearson(np.full(5, 0.1), np.arange(5.0)) == 0
    assert spearman(np.arange(5.0), np.full(5, 3.3)) == 0
