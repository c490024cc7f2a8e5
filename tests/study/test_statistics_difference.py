"""Paired differences against scipy's paired t test, tables, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.study.statistics import (
    POWER,
    Difference,
    paired_difference,
    pairs_needed,
    prediction_interval,
    smallest_effect,
)

# Multiples of 1/8 add and subtract without rounding, so that equal means equal.
EIGHTHS = st.integers(-400, 400).map(lambda i: i / 8)
PAIRS = st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=2, max_size=7)


def test_intervals_match_a_hand_calculation_with_the_t_table() -> None:
    # Differences 1, 2, 3, 4: mean 2.5, standard deviation sqrt(5/3), standard error 0.6455; t table with 3 degrees
    # of freedom: 3.182 (95 %), 2.353 (90 %).
    difference = paired_difference([11, 22, 33, 44], [10, 20, 30, 40])
    standard_error = math.sqrt(5 / 3) / 2
    assert difference.variance_ratio == pytest.approx((11**2 + 10**2) / 1**2)
    assert (difference.mean, difference.n) == (2.5, 4)
    assert difference.sd == pytest.approx(math.sqrt(5 / 3))
    assert difference.ci95 == pytest.approx((2.5 - 3.182 * standard_error, 2.5 + 3.182 * standard_error), abs=1e-3)
    assert difference.ci90 == pytest.approx((2.5 - 2.353 * standard_error, 2.5 + 2.353 * standard_error), abs=1e-3)
    half = 3.182 * math.sqrt(5 / 3) * math.sqrt(1 + 1 / 4)
    assert prediction_interval(difference) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-3)


def test_p_value_and_interval_match_scipys_paired_t_test() -> None:
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


@pytest.mark.parametrize(("n", "shown"), [(5, False), (6, True), (16, True), (17, False)])
def test_sign_flip_p_is_shown_from_6_to_16_pairs(n: int, shown: bool) -> None:
    values = np.random.default_rng(0).normal(size=n).tolist()
    assert (paired_difference(values, [0.0] * n).sign_flip_p is not None) == shown


def test_identical_runs_differ_by_exactly_zero() -> None:
    runs = [0.1, 0.2, 0.3, 0.7, 0.1, 0.9, 0.3, 0.4, 0.5, 0.6]
    zero = (0.0, 0.0)
    expected = Difference(0.0, zero, zero, 1.0, 10, 0.0, 1.0, None)
    assert paired_difference(runs, runs) == expected


def test_the_interval_of_a_constant_difference_is_its_mean() -> None:
    difference = paired_difference([1.5, 2.5, 9.5], [1, 2, 9])
    assert (difference.mean, difference.ci95, difference.ci90, difference.p) == (0.5, (0.5, 0.5), (0.5, 0.5), 0.0)
    assert difference.variance_ratio is None
    # The standard deviation of three times 0.1 is a rounding error above 0.
    assert paired_difference([0.1, 0.1, 0.1], [0, 0, 0]).ci95 == (0.1, 0.1)


def test_the_variance_ratio_measures_the_variance_removed_by_pairing() -> None:
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
def test_too_few_unequal_or_non_finite_pairs_are_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)


@given(PAIRS)
@settings(deadline=None, max_examples=60)
def test_swapping_the_optimizers_mirrors_the_difference(pairs: list[tuple[float, float]]) -> None:
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
def test_intervals_are_nested_consistent_with_p_and_unchanged_by_adding_a_constant_to_both(
    pairs: list[tuple[float, float]], shift: float
) -> None:
    a, b = zip(*pairs, strict=True)
    here = paired_difference(a, b)
    there = paired_difference([x + shift for x in a], [y + shift for y in b])
    assert (there.mean, there.ci95, there.ci90, there.p) == (here.mean, here.ci95, here.ci90, here.p)
    low, high = here.ci95
    assert low <= here.ci90[0] <= here.mean <= here.ci90[1] <= high
    assert (low > 0 or high < 0) == (here.p < 0.05)


def test_intervals_of_the_difference_have_nominal_coverage() -> None:
    rng = np.random.default_rng(5)
    true_difference, trials, inside95, inside90 = 0.7, 2000, 0, 0
    for _ in range(trials):
        shared = rng.normal(0, 2, 5)
        a = shared + rng.normal(true_difference, 1, 5)
        difference = paired_difference(a.tolist(), (shared + rng.normal(0, 1, 5)).tolist())
        inside95 += difference.ci95[0] <= true_difference <= difference.ci95[1]
        inside90 += difference.ci90[0] <= true_difference <= difference.ci90[1]
    # Three binomial standard errors for 2000 trials: 0.015 at 95 %, 0.020 at 90 %.
    assert inside95 / trials == pytest.approx(0.95, abs=0.015)
    assert inside90 / trials == pytest.approx(0.90, abs=0.020)


@pytest.mark.parametrize("n", [4, 17])  # for 6 to 16, all flips of signs would be enumerated for each of 4000 studies
def test_the_prediction_interval_has_nominal_coverage(n: int) -> None:
    rng = np.random.default_rng(n)
    studies = rng.normal(0.3, 2, (4000, n + 1))
    ends = [prediction_interval(paired_difference(row[:n].tolist(), [0.0] * n)) for row in studies]
    inside = [low <= new <= high for (low, high), new in zip(ends, studies[:, n].tolist(), strict=True)]
    # Three binomial standard errors of 4000 trials.
    assert np.mean(inside) == pytest.approx(0.95, abs=0.0104)


@pytest.mark.parametrize("n", [4, 11])
def test_the_smallest_effect_is_detected_in_80_percent_of_studies(n: int) -> None:
    rng = np.random.default_rng(n)
    noise = rng.normal(0, 1, (20_000, n))
    effect = smallest_effect(Difference(0.0, (0, 0), (0, 0), 1.0, n, 1.0, None, None))
    found = stats.ttest_1samp(noise + effect, 0.0, axis=1)
    assert np.mean((found.pvalue < 0.05) & (found.statistic > 0)) == pytest.approx(POWER, abs=0.01)


def test_pairs_needed_matches_the_textbook_for_a_paired_t_test() -> None:
    # The textbook: (1.96 + 0.84)^2 = 7.85 pairs at an effect of one standard deviation, and about two more for t.
    assert pairs_needed(1.0, 1.0) == 10
    assert pairs_needed(-1.0, 1.0) == 10
    assert pairs_needed(0.1, 1.0) == pytest.approx(787, abs=2)
    assert pairs_needed(0.0, 1.0) is None
    assert pairs_needed(0.5, 0.0) == 2


@pytest.mark.parametrize("margin", [0.8, 1.5])
def test_pairs_needed_for_a_tie_show_it_in_about_80_percent_of_studies(margin: float) -> None:
    n = pairs_needed(margin, 1.0, tie=True)
    assert n
    noise = np.random.default_rng(n).normal(0, 1, (20_000, n))
    half = stats.t.ppf(0.95, n - 1) * noise.std(axis=1, ddof=1) / math.sqrt(n)
    share = np.mean(np.abs(noise.mean(axis=1)) + half <= margin)
    assert 0.78 <= share <= 0.93, "the number is whole, so that small ones overshoot"
