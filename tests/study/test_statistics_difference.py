"""Paired differences against scipy's paired t test, tables, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.study.statistics import Difference, paired_difference

# Multiples of 1/8 add and subtract without rounding, so that equal means equal.
EIGHTHS = st.integers(-400, 400).map(lambda i: i / 8)
PAIRS = st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=2, max_size=7)


def test_interval_matches_a_hand_calculation_with_the_t_table() -> None:
    # Differences 1, 2, 3, 4: mean 2.5, standard deviation sqrt(5/3), standard error 0.6455; t table with 3 degrees
    # of freedom: 3.182 (95 %), 2.353 (90 %).
    difference = paired_difference([11, 22, 33, 44], [10, 20, 30, 40])
    standard_error = math.sqrt(5 / 3) / 2
    assert difference.variance_ratio == pytest.approx((11**2 + 10**2) / 1**2)
    assert difference.mean == 2.5
    assert difference.n == 4
    assert difference.ci95 == pytest.approx((2.5 - 3.182 * standard_error, 2.5 + 3.182 * standard_error), abs=1e-3)
    assert difference.ci90 == pytest.approx((2.5 - 2.353 * standard_error, 2.5 + 2.353 * standard_error), abs=1e-3)


def test_a_look_that_may_take_half_of_the_5_percent_decides_by_wider_intervals() -> None:
    # As above; t table with 3 degrees of freedom: 4.177 (97.5 %), 3.182 (95 %).
    difference = paired_difference([11, 22, 33, 44], [10, 20, 30, 40], alpha=0.025)
    standard_error = math.sqrt(5 / 3) / 2
    assert difference.ci_winner == pytest.approx((2.5 - 4.177 * standard_error, 2.5 + 4.177 * standard_error), abs=1e-3)
    assert difference.ci_tie == pytest.approx(difference.ci95, rel=1e-12)
    once = paired_difference([11, 22, 33, 44], [10, 20, 30, 40])
    assert (once.ci_winner, once.ci_tie) == (once.ci95, once.ci90)


def test_p_and_interval_match_the_paired_t_test_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(60, 1, 8), rng.normal(59, 1, 8)
    reference = stats.ttest_rel(a, b)
    difference = paired_difference(a.tolist(), b.tolist())
    assert difference.p == pytest.approx(reference.pvalue, rel=1e-12)
    assert difference.ci95 == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-12)
    assert difference.ci90 == pytest.approx(tuple(reference.confidence_interval(0.90)), rel=1e-12)


@pytest.mark.parametrize("n", [6, 7, 10])
def test_sign_flip_p_is_the_share_of_all_flips_at_least_as_extreme(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    means = [abs(np.mean(np.multiply(flip, differences))) for flip in itertools.product((1, -1), repeat=n)]
    share = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert paired_difference(differences.tolist(), [0.0] * n).sign_flip_p == pytest.approx(share, rel=1e-12)


def test_sign_flip_p_of_differences_of_one_sign_is_two_over_all_flips() -> None:
    assert paired_difference([1, 2, 3, 4, 5, 6], [0] * 6).sign_flip_p == 2 / 2**6


@pytest.mark.parametrize(("n", "shown"), [(5, False), (6, True), (16, True), (17, False)])
def test_sign_flip_p_is_shown_from_6_to_16_pairs(n: int, shown: bool) -> None:
    values = np.random.default_rng(0).normal(size=n).tolist()
    assert (paired_difference(values, [0.0] * n).sign_flip_p is not None) == shown


def test_bootstrap_interval_appears_from_10_pairs_and_lies_near_the_t_interval() -> None:
    values = np.random.default_rng(3).normal(2, 1, 40).tolist()
    assert paired_difference(values[:9], [0.0] * 9).bootstrap95 is None
    difference = paired_difference(values, [0.0] * 40)
    assert difference.bootstrap95 == pytest.approx(difference.ci95, abs=0.08)
    assert difference == paired_difference(values, [0.0] * 40), "the bootstrap must be seeded"


def test_equal_runs_differ_by_exactly_zero() -> None:
    runs = [0.1, 0.2, 0.3, 0.7, 0.1, 0.9, 0.3, 0.4, 0.5, 0.6]
    zero = (0.0, 0.0)
    expected = Difference(0.0, zero, zero, 1.0, 10, 1.0, zero, None, ci_winner=zero, ci_tie=zero)
    assert paired_difference(runs, runs) == expected


def test_constant_difference_collapses_to_its_mean() -> None:
    difference = paired_difference([1.5, 2.5, 9.5], [1, 2, 9])
    assert (difference.mean, difference.ci95, difference.ci90, difference.p) == (0.5, (0.5, 0.5), (0.5, 0.5), 0.0)
    assert difference.variance_ratio is None
    # The standard deviation of three times 0.1 is a rounding error above 0.
    assert paired_difference([0.1, 0.1, 0.1], [0, 0, 0]).ci95 == (0.1, 0.1)


def test_variance_ratio_tells_what_pairing_removed() -> None:
    rng = np.random.default_rng(4)
    shared, noise_a, noise_b = rng.normal(0, 3, 2000), rng.normal(0, 1, 2000), rng.normal(0, 1, 2000)
    paired = paired_difference((shared + noise_a).tolist(), (shared + noise_b).tolist())
    unpaired = paired_difference(noise_a.tolist(), noise_b.tolist())
    assert paired.variance_ratio == pytest.approx((9 + 1) / 1, rel=0.1)
    assert unpaired.variance_ratio == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [2.0], "at least 2 pairs"),
        ([], [], "at least 2 pairs"),
        ([1.0, 2.0], [1.0], "as many values"),
        ([1.0, math.nan], [1.0, 2.0], "not finite"),
        ([1.0, 2.0], [math.inf, 2.0], "not finite"),
    ],
)
def test_unusable_pairs_are_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)


@given(PAIRS)
@settings(deadline=None, max_examples=60)
def test_exchanging_a_and_b_mirrors_everything(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert backward.mean == -forward.mean
    assert backward.ci95 == pytest.approx((-forward.ci95[1], -forward.ci95[0]), rel=1e-9, abs=1e-9)
    assert backward.ci90 == pytest.approx((-forward.ci90[1], -forward.ci90[0]), rel=1e-9, abs=1e-9)
    assert backward.p == pytest.approx(forward.p, rel=1e-9)
    assert backward.sign_flip_p == forward.sign_flip_p
    assert backward.variance_ratio == forward.variance_ratio


@given(PAIRS, EIGHTHS)
@settings(deadline=None, max_examples=60)
def test_shifting_both_changes_nothing(pairs: list[tuple[float, float]], shift: float) -> None:
    a, b = zip(*pairs, strict=True)
    here = paired_difference(a, b)
    there = paired_difference([x + shift for x in a], [y + shift for y in b])
    assert (there.mean, there.ci95, there.ci90, there.p) == (here.mean, here.ci95, here.ci90, here.p)


@given(PAIRS)
@settings(deadline=None, max_examples=60)
def test_intervals_are_nested_and_agree_with_p(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    difference = paired_difference(a, b)
    low, high = difference.ci95
    assert low <= difference.ci90[0] <= difference.mean <= difference.ci90[1] <= high
    assert (low > 0 or high < 0) == (difference.p < 0.05)


def test_intervals_cover_the_true_difference_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    true_difference, trials, inside95, inside90 = 0.7, 2000, 0, 0
    for _ in range(trials):
        shared = rng.normal(0, 2, 5)
        a = shared + rng.normal(true_difference, 1, 5)
        difference = paired_difference(a.tolist(), (shared + rng.normal(0, 1, 5)).tolist())
        inside95 += difference.ci95[0] <= true_difference <= difference.ci95[1]
        inside90 += difference.ci90[0] <= true_difference <= difference.ci90[1]
    # Three binomial standard errors of 2000 trials: 0.015 at 95 %, 0.020 at 90 %.
    assert inside95 / trials == pytest.approx(0.95, abs=0.015)
    assert inside90 / trials == pytest.approx(0.90, abs=0.020)
