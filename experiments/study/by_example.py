"""The interval of a difference over replicates *and* test examples, as if another test set of the same size were drawn.

The interval behind the verdict holds for this particular test set. Here the test examples are a random sample as well,
crossed with the replicates, which all share them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from experiments.study.replicates import Replicate
from experiments.study.statistics import ALPHA


@dataclass(frozen=True)
class ByExample:
    """The mean difference over replicates and test examples, in the units of the metric."""

    ci95: tuple[float, float]
    replicates: int
    examples: int


def interval_by_example(replicates: Sequence[Replicate], a: str, b: str, metric: str) -> ByExample | None:
    """The interval of a - b in ``metric``, over the replicates that record it per example; None with fewer than 2, or
    if their test sets differ in size.
    """
    differences = []
    for replicate in replicates:
        of_both = [_losses(replicate, name, metric) for name in (a, b)]
        if of_both[0] is not None and of_both[1] is not None:
            differences.append(of_both[0] - of_both[1])
    if len(differences) < 2 or len({len(each) for each in differences}) > 1:
        return None
    matrix = np.array(differences)
    return ByExample(crossed_interval(matrix), *matrix.shape)


def _losses(replicate: Replicate, optimizer: str, metric: str) -> np.ndarray | None:
    """Float64 ``[examples]``, the mean over the confirm runs; None if one of them lacks the metric per example."""
    confirmed = replicate.of(optimizer, "confirm")
    if not confirmed or any(run.diverged or run.example_metric != metric for run in confirmed):
        return None
    return np.mean([run.example_losses for run in confirmed], axis=0)


def crossed_interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of ``differences`` ``[replicates, examples]``, both drawn at random.

    Uses the mean squares of a two-way layout without repetition: the variance of the mean is (MS_replicates +
    MS_examples - MS_rest) / (replicates * examples), with Satterthwaite's degrees of freedom (Biometrics Bulletin 2,
    1946). If examples differ by no more than the residual explains, they add nothing, so the interval is never narrower
    than the one over replicates alone.
    """
    num_replicates, num_examples = differences.shape
    mean = differences.mean()
    of_replicates, of_examples = differences.mean(1) - mean, differences.mean(0) - mean
    rest = differences - mean - of_replicates[:, None] - of_examples
    freedom = num_replicates - 1, num_examples - 1, (num_replicates - 1) * (num_examples - 1)
    squares = num_examples * (of_replicates**2).sum(), num_replicates * (of_examples**2).sum(), (rest**2).sum()
    mean_squares = [total / count for total, count in zip(squares, freedom, strict=True)]
    if mean_squares[1] <= mean_squares[2]:
        mean_squares[1:] = [0.0, 0.0]
    sum_of_squares = mean_squares[0] + mean_squares[1] - mean_squares[2]
    if not sum_of_squares:
        return float(mean), float(mean)
    of_sum = sum_of_squares**2 / sum(square**2 / count for square, count in zip(mean_squares, freedom, strict=True))
    error = math.sqrt(sum_of_squares / differences.size)
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, of_sum)) * error
    return float(mean - half), float(mean + half)
