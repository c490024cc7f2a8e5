"""Distances between two sets of images, by the features of any network.

The Frechet distance between two Gaussians, as used by FID (Heusel et al. 2017), is
|m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), where tr((A B)^(1/2)) is the sum of the square roots of the
eigenvalues of R A R with R R = B. This matrix is symmetric, so low-rank covariances (fewer samples than features) are
no problem.

The kernel distance, as used by KID (Binkowski et al. 2018), is the unbiased squared MMD with the kernel
(x.y / D + 1)^3: E k(x, x') + E k(y, y') - 2 E k(x, y), each averaged over pairs of different samples.
"""

import numpy as np

ROWS = 1000
"""Samples whose kernel values with all others are in memory at a time"""


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean float64 ``[D]`` and covariance float64 ``[D, D]`` (over N - 1) of features ``[N, D]``."""
    features = features.astype(np.float64)
    return moments_of_sums(len(features), features.sum(0), features.T @ features)


def moments_of_sums(count: int, total: np.ndarray, outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same from the sums of ``count`` features, ``[D]``, and of their outer products, ``[D, D]``."""
    mean = total / count
    return mean, (outer - count * np.outer(mean, mean)) / (count - 1)


def covariance_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, reference_mean: np.ndarray, reference_root: np.ndarray
) -> float:
    """Distance of a Gaussian from a reference whose covariance is given by its square root."""
    between = np.linalg.eigvalsh(reference_root @ covariance @ reference_root)
    shared = np.sqrt(between.clip(0)).sum()
    spread = np.trace(covariance) + np.square(reference_root).sum() - 2 * shared
    return float(np.square(mean - reference_mean).sum() + spread)


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
