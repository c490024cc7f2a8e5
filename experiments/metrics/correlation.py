"""Correlations of two series, in percent."""

import numpy as np


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
