"""Frechet distance between two Gaussians, as used by FID (Heusel et al. 2017), for the features of any network.

It is |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), where tr((A B)^(1/2)) is the sum of the square roots of the
eigenvalues of R A R with R R = B. This matrix is symmetric, so low-rank covariances (fewer samples than features) are
no problem.
"""

import numpy as np


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
