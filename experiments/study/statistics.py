"""Statistics of the difference between two optimizers over replicates: intervals, verdict, speed-up.

Pure functions of numbers. A pair is one replicate: both optimizers tuned and rerun under the same draw of everything
that belongs to neither.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import scipy

from experiments.harness.metric import Better

Curve = Sequence[tuple[int, float]]
"""(step, value) of each evaluation in one run, in order of the step"""

ALPHA = 0.05
"""The accepted probability of a false winner, and of a false tie."""
LEAST_REPLICATES = 4
"""for a verdict; an interval needs 2"""
POWER = 0.8
"""the power for which the smallest detectable difference is reported"""
SIGN_FLIP_PAIRS = range(6, 17)
"""Below 6 pairs the smallest two-sided p, 2 / 2^n, is above 0.03; above 16 there are too many flips to enumerate."""
MOST_PAIRS = 10_000
EDGE, MANY_AT_EDGE = 0.05, 0.2
"""The outer share of a dimension at one end, and the share of winners in it above which the box may be too small."""


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
    sd: float
    """standard deviation of the differences"""
    sign_flip_p: float | None
    """two-sided p over all 2^n sign flips of the differences; None outside 6 to 16 pairs"""
    variance_ratio: float | None
    """(var(a) + var(b)) / var(a - b): the factor by which pairing reduced the variance; None if var(a - b) is 0"""


@dataclass(frozen=True)
class Reach:
    """How soon runs reach the final value of other runs."""

    reached: int
    of: int
    median: float | None
    """steps that the other run took / steps until its final value was reached, over those that reached it"""


@dataclass(frozen=True)
class Speedup(Reach):
    """The paper's speed-up of a over b, that of b over a, and that between runs of b alone."""

    reverse: Reach
    aa: Reach


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The mean of a[i] - b[i] with its t intervals and tests.

    If all differences are equal, the intervals collapse to the mean, and p is 1 for a mean of 0, else 0.
    Raises ValueError for fewer than 2 pairs, unequal lengths, or a value that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"Pairs need as many values of a as of b, but there are {len(a)} and {len(b)}.")
    if len(a) < 2:
        raise ValueError(f"An interval needs at least 2 pairs, but there are {len(a)}: run more replicates.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("A value is not finite: leave out pairs in which a run diverged, and count them instead.")
    differences = np.subtract(a, b, dtype=float)
    n = len(differences)
    sign_flip_p = _sign_flip_p(differences)

    # np.std of equal numbers can exceed 0 by a rounding error, so the range is checked instead.
    if np.ptp(differences) == 0:
        mean = float(differences[0])
        return Difference(mean, (mean, mean), (mean, mean), 1.0 if mean == 0 else 0.0, n, 0.0, sign_flip_p, None)

    ci95, ci90, p = t_intervals(differences)
    return Difference(
        mean=float(differences.mean()),
        ci95=(float(ci95[0]), float(ci95[1])),
        ci90=(float(ci90[0]), float(ci90[1])),
        p=float(p),
        n=n,
        sd=float(differences.std(ddof=1)),
        sign_flip_p=sign_flip_p,
        variance_ratio=float((np.var(a, ddof=1) + np.var(b, ddof=1)) / np.var(differences, ddof=1)),
    )


def t_intervals(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T intervals ``[..., 2]`` at levels 1 - ALPHA and 1 - 2 ALPHA for the mean of ``[..., n]`` differences that are
    not all equal, and the two-sided p ``[...]`` for a mean of 0. Works on many studies at once, so that the simulation
    runs the same code as a study.
    """
    test = scipy.stats.ttest_1samp(differences, 0.0, axis=-1)
    wide, narrow = (np.stack(test.confidence_interval(1 - share), axis=-1) for share in (ALPHA, 2 * ALPHA))
    return wide, narrow, np.asarray(test.pvalue)


def _sign_flip_p(differences: np.ndarray) -> float | None:
    n = len(differences)
    if n not in SIGN_FLIP_PAIRS:
        return None
    # With 2^n resamples scipy enumerates the flips instead of drawing them.
    test = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**n
    )
    return float(test.pvalue)


def prediction_interval(difference: Difference) -> tuple[float, float]:
    """The interval that contains the difference of a new replicate with 95 % probability, if drawn like the others."""
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, difference.n - 1)) * difference.sd * math.sqrt(1 + 1 / difference.n)
    return difference.mean - half, difference.mean + half


def smallest_effect(difference: Difference) -> float:
    """The smallest true difference that this many pairs with this spread distinguish from 0 in POWER of all studies,
    computed exactly from the noncentral t distribution.
    """
    return _detectable(difference.n) * difference.sd


def pairs_needed(effect: float, sd: float, *, tie: bool = False) -> int | None:
    """The number of pairs with standard deviation ``sd`` needed to distinguish a true difference of ``effect`` from 0
    in POWER of all studies, or (``tie``) a true difference of 0 from ``effect``; None if even MOST_PAIRS are too few.
    """
    needed = _equivalence if tie else _detectable
    counts = range(2, MOST_PAIRS + 1)
    enough = bisect_left(counts, True, key=lambda n: needed(n) * sd <= abs(effect))
    return counts[enough] if enough < len(counts) else None


def _equivalence(n: int) -> float:
    """The margin, in standard deviations, within which two one-sided tests place a true difference of 0 in POWER of all
    studies: from t quantiles, with the probability of failing, 1 - POWER, split equally between the two tests.
    """
    return float(scipy.stats.t.ppf(1 - ALPHA, n - 1) + scipy.stats.t.ppf((1 + POWER) / 2, n - 1)) / math.sqrt(n)


def _detectable(n: int) -> float:
    """The smallest detectable difference, in standard deviations."""
    critical = float(scipy.stats.t.ppf(1 - ALPHA / 2, n - 1))

    def shortfall(noncentrality: float) -> float:
        return POWER - float(scipy.stats.nct.sf(critical, n - 1, noncentrality))

    return float(scipy.optimize.brentq(shortfall, 0.0, 2 * critical + 5)) / math.sqrt(n)


def verdict(
    difference: Difference | None,
    *,
    a: str,
    b: str,
    better: Better,
    margin: float | None,
    unsettled: float | None = None,
    diverged: Mapping[str, int] | None = None,
    replicates: int = 0,
) -> str | None:
    """``"tie"``, the winner's name (a or b), ``"undecided"``, ``"withheld"``, or None below LEAST_REPLICATES.

    ``margin`` is absolute, in the metric's units; None: nothing is a tie. ``unsettled`` is the difference between the
    two optimizers' gains in the last stage of their searches, in the same units; None: unknown. ``diverged`` counts,
    for each optimizer, in how many of the ``replicates`` a run to be compared diverged.

    1. If any diverged: undecided, because the remaining pairs are a selection. Exception: if one optimizer diverged in
       more than half of the replicates and the other in none, the other won, whatever the surviving pairs say.
    2. The 90 % interval lies inside [-margin, margin], ends included: tie (two one-sided tests at 5 %). A difference
       that is certainly not 0 but certainly small is also a tie.
    3. The 95 % interval does not contain 0 (an end that is exactly 0 counts as containing it): the better one won.
    4. Otherwise undecided.

    A winner by less than ``unsettled`` is withheld, and so is a tie if ``unsettled`` is above the margin: the searches
    were still moving by more than the difference found.
    """
    sign = sign_of(better)
    if margin is not None and not margin >= 0:
        raise ValueError(f"The tie margin must be at least 0, but it is {margin}.")
    lost = {name: (diverged or {}).get(name, 0) for name in (a, b)}
    if any(lost.values()):
        if replicates < LEAST_REPLICATES:
            return None
        for loser, other in ((a, b), (b, a)):
            if lost[loser] > replicates / 2 and lost[other] == 0:
                return other
        return "undecided"
    if difference is None or difference.n < LEAST_REPLICATES:
        return None
    low, high = difference.ci90
    if margin is not None and -margin <= low and high <= margin:
        return "withheld" if unsettled is not None and unsettled > margin else "tie"
    low, high = difference.ci95
    if low <= 0 <= high:
        return "undecided"
    if unsettled is not None and abs(difference.mean) < unsettled:
        return "withheld"
    return a if sign * difference.mean > 0 else b


def at_edges(positions: Sequence[float], ends_below: bool) -> dict[str, int]:
    """How many winners lie in the outer EDGE of a dimension, by its end, given their ``positions`` from 0 to 1. The
    bottom does not count if nothing exists below it (``ends_below``: no decay, no memory).
    """
    top, bottom = sum(at > 1 - EDGE for at in positions), sum(at < EDGE for at in positions)
    return {"top": top, "bottom": 0 if ends_below else bottom}


def is_at_edge(positions: Sequence[float], ends_below: bool) -> bool:
    """Whether more than MANY_AT_EDGE of the winners lie at one end. Winners at both ends show that the dimension does
    not matter.
    """
    return max(at_edges(positions, ends_below).values()) > MANY_AT_EDGE * len(positions)


def speedup(
    curves_a: Sequence[Curve], curves_b: Sequence[Curve], *, better: Better, groups: Sequence[int] | None = None
) -> Speedup:
    """How much sooner a reaches b's final value, as defined in the paper: for each pair, b's total steps divided by the
    first step at which a is at least as good as b's final value.

    ``reverse`` exchanges a and b. ``aa`` compares each run of b with every other run of b, in the same group if
    ``groups`` (one per pair) is given: with runs of equal length the ratio cannot fall below 1, so noise alone makes it
    look good, and ``aa`` shows by how much. Evaluations at step 0, before training, are ignored. Raises ValueError for
    unequal numbers of curves, a curve without a trained step, or a final value that is not finite.
    """
    if len(curves_a) != len(curves_b):
        raise ValueError(f"Pairs need as many curves of a as of b, but there are {len(curves_a)} and {len(curves_b)}.")
    sign = sign_of(better)
    pairs = list(zip(curves_a, curves_b, strict=True))
    group = list(groups) if groups is not None else [0] * len(pairs)
    same_optimizer = [
        (x, y) for i, x in enumerate(curves_b) for j, y in enumerate(curves_b) if i != j and group[i] == group[j]
    ]
    reverse = _reach([(b, a) for a, b in pairs], sign)
    return Speedup(**asdict(_reach(pairs, sign)), reverse=reverse, aa=_reach(same_optimizer, sign))


def _reach(pairs: Sequence[tuple[Curve, Curve]], sign: int) -> Reach:
    """For each (curve, target): the target's total steps / the first step at which curve is as good as its final
    value.
    """
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

    If every hypothesis with an adjusted p of at most alpha is rejected, the probability of any false rejection is at
    most alpha.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def sign_of(better: str) -> int:
    """+1 or -1, so that sign * value is higher for the better value. Raises ValueError for a typo, which must not flip
    a verdict.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better must be 'higher' or 'lower', but it is {better!r}.")
    return 1 if better == "higher" else -1
