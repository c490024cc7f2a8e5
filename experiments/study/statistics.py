"""What the seeds of two optimizers say about their difference: interval, verdict, speed-up, agreement with the paper.

Pure functions of numbers. "Pair" means the same seed: the same initial weights, batches and noise for both optimizers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Better = Literal["higher", "lower"]
Curve = Sequence[tuple[int, float]]
"""(step, value) of each evaluation of one run, by rising step"""

ALPHA = 0.05
"""The chance of a false winner, and of a false tie, that a study may take."""
SIGN_FLIP_SEEDS = range(6, 17)
"""Below 6 pairs the smallest two-sided p, 2 / 2^n, is above 0.03; above 16 there are too many flips to enumerate."""
BOOTSTRAP_MIN_SEEDS = 10


@dataclass(frozen=True)
class Difference:
    """The paired difference a - b, in the units of the metric."""

    mean: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    p: float
    """two-sided p of the paired t test"""
    n: int
    """pairs"""
    sign_flip_p: float | None
    """two-sided p over all 2^n sign flips of the differences; None outside 6 to 16 pairs"""
    bootstrap95: tuple[float, float] | None
    """95 % BCa bootstrap interval; None below 10 pairs"""
    variance_ratio: float | None
    """(var(a) + var(b)) / var(a - b): how much smaller pairing made the variance; None where var(a - b) is 0"""
    ci_winner: tuple[float, float]
    """the interval that decides on a winner: of level 1 - alpha, ci95 where the study is judged once"""
    ci_tie: tuple[float, float]
    """the interval that decides on a tie: of level 1 - 2 alpha, ci90 where the study is judged once"""


@dataclass(frozen=True)
class Reach:
    """How soon runs reach the final value of other runs."""

    reached: int
    of: int
    median: float | None
    """steps that the other run took / steps until its final value was reached, over those that reached it"""


@dataclass(frozen=True)
class Speedup:
    """The paper's speed-up of a over b, the same of b over a, and what two sets of runs of b alone would show."""

    reached: int
    of: int
    median: float | None
    reverse: Reach
    aa: Reach


def paired_difference(a: Sequence[float], b: Sequence[float], alpha: float = ALPHA) -> Difference:
    """The mean of a[i] - b[i] with its t intervals and tests; ``alpha`` is what this look at the seeds may take.

    Where all differences are equal, the intervals collapse to the mean, and p is 1 for a mean of 0, else 0.
    Raises ValueError for fewer than 2 pairs, unequal lengths, or a value that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"Pairs need as many values of a as of b, but there are {len(a)} and {len(b)}.")
    if len(a) < 2:
        raise ValueError(f"An interval needs at least 2 pairs, but there are {len(a)}: run more seeds.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("A value is not finite: leave out the pairs in which a run diverged, and count them instead.")
    differences = np.subtract(a, b, dtype=float)
    n = len(differences)

    # np.std of equal numbers can be a rounding error above 0, so the spread decides.
    if np.ptp(differences) == 0:
        mean = float(differences[0])
        return Difference(
            mean=mean,
            ci95=(mean, mean),
            ci90=(mean, mean),
            p=1.0 if mean == 0 else 0.0,
            n=n,
            sign_flip_p=_sign_flip_p(differences),
            bootstrap95=(mean, mean) if n >= BOOTSTRAP_MIN_SEEDS else None,
            variance_ratio=None,
            ci_winner=(mean, mean),
            ci_tie=(mean, mean),
        )

    ci95, ci90, p = t_intervals(differences)
    ci_winner, ci_tie, _ = t_intervals(differences, alpha)
    bootstrap95 = None
    if n >= BOOTSTRAP_MIN_SEEDS:
        interval = stats.bootstrap((differences,), np.mean, method="BCa", rng=0).confidence_interval
        bootstrap95 = (float(interval.low), float(interval.high))
    return Difference(
        mean=float(differences.mean()),
        ci95=(float(ci95[0]), float(ci95[1])),
        ci90=(float(ci90[0]), float(ci90[1])),
        p=float(p),
        n=n,
        sign_flip_p=_sign_flip_p(differences),
        bootstrap95=bootstrap95,
        variance_ratio=float((np.var(a, ddof=1) + np.var(b, ddof=1)) / np.var(differences, ddof=1)),
        ci_winner=(float(ci_winner[0]), float(ci_winner[1])),
        ci_tie=(float(ci_tie[0]), float(ci_tie[1])),
    )


def t_intervals(differences: np.ndarray, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T intervals ``[..., 2]`` of levels 1 - alpha and 1 - 2 alpha of the mean of ``[..., n]`` differences that are not
    all equal, and the two-sided p ``[...]`` of mean 0. Many studies at once, so that a simulation judges the very code
    of one.
    """
    test = stats.ttest_1samp(differences, 0.0, axis=-1)
    wide, narrow = (np.stack(test.confidence_interval(1 - share), axis=-1) for share in (alpha, 2 * alpha))
    return wide, narrow, np.asarray(test.pvalue)


def _sign_flip_p(differences: np.ndarray) -> float | None:
    n = len(differences)
    if n not in SIGN_FLIP_SEEDS:
        return None
    # With 2^n resamples scipy enumerates the flips instead of drawing them.
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**n
    )
    return float(test.pvalue)


def verdict(
    difference: Difference | None,
    *,
    a: str,
    b: str,
    better: Better,
    margin: float,
    diverged: Mapping[str, int],
    seeds: int,
) -> str | None:
    """``"tie"``, the winner's name (a or b), ``"undecided"``, or None where there is no interval to judge.

    ``margin`` is absolute, in the metric's units; ``diverged`` counts each optimizer's diverged runs out of ``seeds``.

    1. Where a run diverged: undecided, unless one optimizer diverged in more than half of the seeds and the other
       in none; the other then won, whatever the surviving seeds say.
    2. ``ci_tie``, the 90 % interval, lies inside [-margin, margin], its ends included: tie (two one-sided tests at
       5 %). A difference that is surely not 0 but surely small is a tie too.
    3. ``ci_winner``, the 95 % interval, does not contain 0 (an end that is exactly 0 does): the better one won.
    4. Else undecided.

    Where several looks share the 5 %, both intervals are wider.
    """
    sign = _sign(better)
    if not margin >= 0:
        raise ValueError(f"The margin of a verdict must be at least 0, but it is {margin}.")
    if diverged[a] or diverged[b]:
        for loser, other in ((a, b), (b, a)):
            if diverged[loser] > seeds / 2 and diverged[other] == 0:
                return other
        return "undecided"
    if difference is None:
        return None
    low, high = difference.ci_tie
    if -margin <= low and high <= margin:
        return "tie"
    low, high = difference.ci_winner
    if low <= 0 <= high:
        return "undecided"
    return a if sign * difference.mean > 0 else b


def speedup(curves_a: Sequence[Curve], curves_b: Sequence[Curve], *, better: Better) -> Speedup:
    """How much sooner a reaches b's final value, as the paper draws it: per pair, the steps that b took in all,
    divided by the first step at which a's value is at least as good as b's last.

    ``reverse`` exchanges a and b. ``aa`` lets each run of b chase each other run of b: the ratio cannot fall below 1
    while runs are equally long, so noise alone makes it look good, and ``aa`` shows by how much.
    An evaluation at step 0 is before training and counts for nothing. Raises ValueError for unequal numbers of
    curves, a curve without a trained step, or a last value that is not finite.
    """
    if len(curves_a) != len(curves_b):
        raise ValueError(f"Pairs need as many curves of a as of b, but there are {len(curves_a)} and {len(curves_b)}.")
    sign = _sign(better)
    pairs = list(zip(curves_a, curves_b, strict=True))
    forward = _reach(pairs, sign)
    same_optimizer = [(x, y) for i, x in enumerate(curves_b) for j, y in enumerate(curves_b) if i != j]
    return Speedup(
        reached=forward.reached,
        of=forward.of,
        median=forward.median,
        reverse=_reach([(b, a) for a, b in pairs], sign),
        aa=_reach(same_optimizer, sign),
    )


def _reach(pairs: Sequence[tuple[Curve, Curve]], sign: int) -> Reach:
    """For each (curve, target): the target's total steps / the first step at which curve is as good as its end."""
    ratios = []
    for curve, target in pairs:
        trained = [(step, value) for step, value in target if step > 0]
        if not trained or not math.isfinite(trained[-1][1]):
            raise ValueError("A curve of a speed-up must end in a finite value after step 0: leave out diverged runs.")
        total_steps, final_value = trained[-1]
        first = next((step for step, value in curve if step > 0 and sign * value >= sign * final_value), None)
        if first is not None:
            ratios.append(total_steps / first)
    return Reach(reached=len(ratios), of=len(pairs), median=float(np.median(ratios)) if ratios else None)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted by Holm's step-down method (Scand. J. Statist. 6, 1979); keys and their order are kept.

    Reject every hypothesis whose adjusted p is at most alpha, and the chance of any false rejection is at most alpha.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def agrees(
    outcome: str | None, *, a: str, b: str, paper_a: float, paper_b: float, better: Better, margin: float
) -> bool | None:
    """Whether the paper's two numbers point where our verdict ``outcome`` does.

    A tie agrees with a paper difference inside [-margin, margin]; a winner with a paper difference of its sign;
    undecided and None agree or disagree with nothing (None).
    """
    if outcome is None or outcome == "undecided":
        return None
    if outcome == "tie":
        return abs(paper_a - paper_b) <= margin
    gain_of_a = _sign(better) * (paper_a - paper_b)
    return {a: gain_of_a > 0, b: gain_of_a < 0}[outcome]


def _sign(better: str) -> int:
    """+1 or -1, so that sign * value is higher for the better value; a typing slip must not turn a verdict round."""
    if better not in ("higher", "lower"):
        raise ValueError(f"better must be 'higher' or 'lower', but it is {better!r}.")
    return 1 if better == "higher" else -1
