"""Choose the next trial of a search: the point where a Gaussian process fitted to the trials so far expects the largest
improvement.

The process has a Matern 5/2 kernel with one length scale per dimension and a constant mean; length scales and noise are
the most probable of random draws. Expected improvement (Jones et al. 1998, J. Global Optim. 13) is maximized in a box
around the best point that shrinks over time, like the trust regions of TuRBO (Eriksson et al. 2019, arXiv:1910.01739).
docs/statistics.md compares it with other searches. Why not Optuna: on early versions of those surfaces, with 30
searches of 30 trials each, GPSampler (Optuna 5.0) left a regret of 1.0, 17.9, 3.3 and 13.9 standard deviations of a run
where this leaves 0.6, 8.6, 3.6 and 9.0, and took over 20 times as long; TPE did no better than boxes around the best
point. Every function works on many searches at once, along the first axis, so that a simulation runs the same code as a
study.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]

LAST_WIDTH = 0.125
"""width of the box around the best point at the last trial, as a share of each dimension"""
LOG_LENGTH = (np.log(0.7), 0.8)
"""mean and standard deviation of the prior of a log length scale, in shares of the dimension"""
LOG_NOISE = (np.log(0.02), 1.5)
"""the same for the log variance of the noise, as a share of the surface's"""
DRAWS = (24, 16, 16)
"""numbers of hyperparameters drawn: from the prior, then twice around the most probable ones"""
KEPT = 6
"""hyperparameters over which proposals are averaged, weighted by their probability"""
CANDIDATES = (300, 40, 40)
"""numbers of candidate points: in the box, then twice around the most promising one"""
STEPS = (0.08, 0.03)
"""spread of the candidates around it, as shares of the box"""
SPREAD_BELOW = 2.0
"""values further above the best than this many times the median's distance are compressed logarithmically: how bad a
bad value is hardly matters"""
MOST_ABOVE = 20.0
"""values beyond this many times that distance count as equally bad. Otherwise a run that blew up without overflowing,
to a loss of 1e9, would leave no difference between the others."""


class Fit(NamedTuple):
    """Gaussian processes of ``[searches, hyperparameters]``."""

    log_lengths: Array
    """[searches, hyperparameters, dimensions]"""
    log_noise: Array
    inverse: Array
    """of the kernel matrix: [searches, hyperparameters, n, n]"""
    mean: Array
    scale: Array
    """variance of the surface"""
    weights: Array
    """inverse kernel matrix times residuals: [searches, hyperparameters, n]"""
    log_posterior: Array


def next_trial(
    units: Sequence[Sequence[float]], values: Sequence[float], *, first: int, total: int, seed: int
) -> Array:
    """The next point ``[dimensions]`` after trials at ``units`` with results ``values``, where lower is better.

    A search has ``total`` trials, of which the ``first`` ones are a Latin hypercube. Equal arguments give equal points.
    """
    points, seen = np.asarray(units, dtype=float)[None], np.asarray(values, dtype=float)[None]
    rng = np.random.default_rng([seed, len(values)])
    return next_points(points, seen, box_width(len(values), first=first, total=total), rng)[0]


def box_width(done: int, *, first: int, total: int) -> float:
    """The width of the box after ``done`` trials: it shrinks from the whole cube to LAST_WIDTH by equal factors."""
    return float(LAST_WIDTH ** ((done - first) / max(total - 1 - first, 1)))


def next_points(units: Array, values: Array, width: float, rng: np.random.Generator) -> Array:
    """The next point of each search ``[searches, dimensions]`` after ``units [searches, n, dimensions]`` and ``values
    [searches, n]``, inside a box of ``width`` around the point with the best predicted mean.
    """
    searches, _, dimensions = units.shape
    fit, share = most_probable(units, _tamed(values), rng)
    means, _ = predict(units, fit, units)
    best_mean = means.min(axis=-1)
    centre = _of_each(units, np.einsum("sh,shn->sn", share, means).argmin(axis=1)[:, None])
    low = np.clip(centre - width / 2, 0, 1 - width)
    candidates = low + width * rng.random((searches, CANDIDATES[0], dimensions))
    for step, count in zip((*STEPS, 0.0), (*CANDIDATES[1:], 0), strict=True):
        expected = expected_improvement(units, fit, share, best_mean, candidates)
        chosen = _of_each(candidates, expected.argmax(axis=1)[:, None])
        moved = chosen + step * width * rng.standard_normal((searches, count, dimensions))
        candidates = np.concatenate([chosen, np.clip(moved, 0, 1)], axis=1)
    return np.asarray(chosen[:, 0])


def drawn_in(above: Array) -> Array:
    """Compress values above 1 logarithmically, up to MOST_ABOVE."""
    return np.where(above < 1, above, 1 + np.log(np.clip(above, 1, MOST_ABOVE)))


def _tamed(values: Array) -> Array:
    """Compress the upper tail of the values, such as diverged trials, then standardize them."""
    best = values.min(axis=1, keepdims=True)
    unit = SPREAD_BELOW * (np.median(values, axis=1, keepdims=True) - best)
    # Half of the values, or even all of them, may equal the best one.
    next_best = np.where(values > best, values, np.inf).min(axis=1, keepdims=True)
    unit = np.where(unit > 0, unit, np.where(np.isfinite(next_best), next_best - best, 1.0))
    tamed = drawn_in((values - best) / unit)
    return np.asarray((tamed - tamed.mean(axis=1, keepdims=True)) / np.maximum(tamed.std(axis=1, keepdims=True), 1e-12))


def most_probable(units: Array, values: Array, rng: np.random.Generator) -> tuple[Fit, Array]:
    """The KEPT most probable processes and their weights ``[searches, KEPT]``."""
    searches, _, dimensions = units.shape

    def drawn(count: int, lengths: Array | float, noise: Array | float, spread: tuple[float, float]) -> Fit:
        by_length = lengths + spread[0] * rng.standard_normal((searches, count, dimensions))
        return fitted(units, values, by_length, noise + spread[1] * rng.standard_normal((searches, count)))

    fit = drawn(DRAWS[0], LOG_LENGTH[0], LOG_NOISE[0], (LOG_LENGTH[1], LOG_NOISE[1]))
    for nearer, count in zip((0.6, 0.3), DRAWS[1:], strict=True):
        top = fit.log_posterior.argmax(axis=1)[:, None]
        around = drawn(count, _of_each(fit.log_lengths, top), _of_each(fit.log_noise, top), (nearer, 2 * nearer))
        fit = Fit(*(np.concatenate(pair, axis=1) for pair in zip(fit, around, strict=True)))
    order = np.argsort(-fit.log_posterior, axis=1)[:, :KEPT]
    kept = Fit(*(_of_each(array, order) for array in fit))
    share = np.exp(kept.log_posterior - kept.log_posterior[:, :1])
    return kept, share / share.sum(axis=1, keepdims=True)


def fitted(units: Array, values: Array, log_lengths: Array, log_noise: Array) -> Fit:
    """The processes with these length scales and this noise, given the trials of each search."""
    n = values.shape[1]
    noise = np.exp(log_noise)[..., None, None] + 1e-6
    covariance = _kernel(units, units, log_lengths) + noise * np.eye(n)
    inverse = np.linalg.inv(covariance)
    mean = np.einsum("shij,sj->sh", inverse, values) / inverse.sum(axis=(-1, -2))
    residuals = values[:, None] - mean[..., None]
    weights = np.einsum("shij,shj->shi", inverse, residuals)
    # The variance is integrated out under a weak prior, so that a few equal values do not imply certainty.
    scale = ((residuals * weights).sum(axis=-1) + 0.3) / (n + 0.3)
    log_likelihood = -0.5 * (n + 0.3) * np.log(scale) - 0.5 * np.linalg.slogdet(covariance)[1]
    log_prior = -0.5 * (((log_lengths - LOG_LENGTH[0]) / LOG_LENGTH[1]) ** 2).sum(axis=-1)
    log_prior -= 0.5 * ((log_noise - LOG_NOISE[0]) / LOG_NOISE[1]) ** 2
    return Fit(log_lengths, log_noise, np.asarray(inverse), mean, scale, weights, log_likelihood + log_prior)


def _kernel(left: Array, right: Array, log_lengths: Array) -> Array:
    """Matern 5/2 ``[searches, hyperparameters, l, r]`` of ``left [searches, l, dimensions]`` and ``right``."""
    shares = np.exp(-log_lengths)[:, :, None]
    a, b = left[:, None] * shares, right[:, None] * shares
    kernel = a @ (-2 * b).swapaxes(-1, -2)
    kernel += (a**2).sum(axis=-1)[..., :, None]
    kernel += (b**2).sum(axis=-1)[..., None, :]
    # (1 + u + u^2 / 3) exp(-u) with u = sqrt(5) times the distance, in place: most of a proposal's time is spent here.
    kernel = np.maximum(kernel, 0, out=kernel)
    kernel *= 5
    distance = np.sqrt(kernel)
    kernel /= 3
    kernel += distance
    kernel += 1
    np.negative(distance, out=distance)
    kernel *= np.exp(distance, out=distance)
    return np.asarray(kernel)


def predict(units: Array, fit: Fit, points: Array) -> tuple[Array, Array]:
    """Mean and variance of the noise-free surface at ``points [searches, m, dimensions]``."""
    covariance = _kernel(points, units, fit.log_lengths)
    mean = fit.mean[..., None] + np.einsum("shmn,shn->shm", covariance, fit.weights)
    explained = ((covariance @ fit.inverse) * covariance).sum(axis=-1)
    return mean, fit.scale[..., None] * np.maximum(1 - explained, 1e-9)


def expected_improvement(units: Array, fit: Fit, share: Array, best_mean: Array, points: Array) -> Array:
    """The expected improvement of each point over ``best_mean``, averaged over the processes by their ``share``."""
    mean, variance = predict(units, fit, points)
    deviation = np.sqrt(variance)
    z = (best_mean[..., None] - mean) / deviation
    improvement = deviation * (z * scipy.special.ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
    return np.asarray(np.einsum("sh,shm->sm", share, improvement))


def _of_each(array: Array, index: NDArray[np.intp]) -> Array:
    """``array [searches, n, ...]`` at ``index [searches, k]``, search by search."""
    return np.take_along_axis(array, index.reshape(index.shape + (1,) * (array.ndim - 2)), axis=1)
