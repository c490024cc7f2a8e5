"""Kernel distance, as used by KID (Binkowski et al. 2018): unbiased squared MMD with the kernel (x.y / D + 1)^3.

It is E k(x, x') + E k(y, y') - 2 E k(x, y), each averaged over pairs of different samples.
"""

import numpy as np

ROWS = 1000
"""Samples whose kernel values with all others are in memory at a time"""


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    blocks = (a[start : start + ROWS].astype(np.float64) for start in range(0, len(a), ROWS))
    return float(sum(((block @ b.T / b.shape[1] + 1) ** 3).sum() for block in blocks))


def own_kernel(features: np.ndarray) -> float:
    """Mean kernel between two different samples of ``[N, D]``, with N at least 2."""
    features = features.astype(np.float64)
    count = len(features)
    itself = float(((np.square(features).sum(1) / features.shape[1] + 1) ** 3).sum())
    return (_kernel_sum(features, features) - itself) / (count * (count - 1))


def cross_kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Mean kernel between a sample of ``a [N, D]`` and one of ``b [M, D]``."""
    return _kernel_sum(a, b.astype(np.float64)) / (len(a) * len(b))


def kernel_distance(own_a: float, own_b: float, cross: float) -> float:
    """Squared MMD; unbiased, so it may be negative."""
    return own_a + own_b - 2 * cross
