"""A difference in a metric, expressed in steps: how much longer or shorter the reference would have to run for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from experiments.harness.metric import Better
from experiments.study.statistics import ALPHA, sign_of

MOST_TIMES = 10
"""Larger differences are reported as at least this many times the steps: no slope was measured that far out."""
LEAST_PERCENT = -100.0 * (MOST_TIMES - 1)


@dataclass(frozen=True)
class Steps:
    """A difference in steps: by how many per cent fewer steps a reaches b's final value; below 0, more."""

    mean: float
    ci95: tuple[float, float] | None
    """None with fewer than 2 replicates"""


def log_slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Slope of the metric against ln(steps), from (steps, value); None with fewer than 2 lengths.

    It is the median of the slopes between every two runs of different length (Theil-Sen), so a single run that blew up
    without becoming infinite does not decide it.
    """
    if len({steps for steps, _ in points}) < 2:
        return None
    steps, values = zip(*points, strict=True)
    return float(scipy.stats.theilslopes(values, np.log(steps)).slope)


def typical_slope(slopes: Sequence[float]) -> float | None:
    """The median of the replicates' slopes, for the reason that ``log_slope`` gives; None without any."""
    return float(np.median(slopes)) if slopes else None


def improves(slope: float, better: Better) -> bool:
    """Whether longer runs are better, so that a difference can be expressed in steps."""
    return sign_of(better) * slope > 0


def fewer_steps(differences: Sequence[float], slopes: Sequence[float], better: Better) -> Steps | None:
    """By how many per cent fewer steps a reaches b's final value: 100 (1 - exp(-d / s)), with the mean difference d of
    a - b and the mean slope s of b's metric against ln(steps), one of each per replicate.

    The interval is that of d / s from the jackknife over replicates (pseudo-values, t with n - 1 degrees of freedom),
    transformed by the same formula. None if longer runs are not better on average, or if a single replicate decides
    whether they are.
    """
    d, s = np.asarray(differences, dtype=float), np.asarray(slopes, dtype=float)
    n = len(d)
    if len(s) != n:
        raise ValueError(f"Every difference needs a slope, but there are {n} differences and {len(s)} slopes.")
    without = [np.delete(s, i) for i in range(n)] if n > 1 else []
    if not n or not all(improves(float(kept.mean()), better) for kept in (s, *without)):
        return None
    ratio = float(d.mean() / s.mean())
    if n < 2:
        return Steps(percent_fewer(ratio), None)
    left_out = np.array([np.delete(d, i).mean() / kept.mean() for i, kept in enumerate(without)])
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, n - 1)) * error
    return Steps(percent_fewer(ratio), (percent_fewer(ratio - half), percent_fewer(ratio + half)))


def percent_fewer(ratio: float) -> float:
    """The percentage of steps saved; ``ratio`` is a difference / slope against ln(steps). At least LEAST_PERCENT."""
    return max(LEAST_PERCENT, -100 * math.expm1(min(-ratio, math.log(MOST_TIMES))))


def margin_in_units(percent: float, slopes: Sequence[float], better: Better) -> float | None:
    """The difference in the metric caused by ``percent`` fewer steps; None if longer runs are not better."""
    slope = typical_slope(slopes)
    return None if slope is None or not improves(slope, better) else abs(slope) * -math.log1p(-percent / 100)
