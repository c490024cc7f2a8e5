"""Differences expressed in steps, on curves with known answers and on simulated studies."""

import math

import numpy as np
import pytest

from experiments.harness.metric import Better
from experiments.report.labels import steps_words
from experiments.study.in_steps import fewer_steps, log_slope, margin_in_units, percent_fewer


def test_the_slope_is_fitted_against_log_steps() -> None:
    points = [(steps, 3.0 - 0.2 * math.log(steps)) for steps in (140, 200, 280)]
    assert log_slope(points) == pytest.approx(-0.2)
    assert log_slope([(200, 1.0), (200, 1.1)]) is None
    assert log_slope([]) is None


def test_a_blown_up_run_does_not_change_the_margin() -> None:
    points = [(steps, 3.0 - 0.2 * math.log(steps)) for steps in (140, 140, 200, 200, 280, 280)]
    assert log_slope([(140, 107450.0), *points[1:]]) == pytest.approx(-0.2)
    margin = margin_in_units(10.0, [-0.2] * 7 + [-78239.7], "lower")
    assert margin == pytest.approx(0.2 * math.log(1 / 0.9))


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("fewer", [20.0, 0.0, -25.0])
def test_fewer_steps_for_an_equal_loss_are_recovered(better: Better, fewer: float) -> None:
    # b's curve is s * ln(steps); after 200 steps, a is where b is after 200 / (1 - fewer).
    slope = -0.2 if better == "lower" else 3.0
    difference = slope * (math.log(200 / (1 - fewer / 100)) - math.log(200))
    found = fewer_steps([difference] * 5, [slope] * 5, better)
    assert found
    assert found.ci95
    assert found.mean == pytest.approx(fewer)
    assert found.ci95 == pytest.approx((fewer, fewer), abs=1e-9)


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_margin_is_the_difference_made_by_10_percent_of_steps(better: Better) -> None:
    slope = -0.2 if better == "lower" else 3.0
    margin = margin_in_units(10.0, [slope] * 3, better)
    assert margin is not None
    assert margin == pytest.approx(abs(slope) * math.log(1 / 0.9))
    assert percent_fewer(margin / abs(slope)) == pytest.approx(10.0)


def test_steps_are_undefined_where_longer_runs_are_not_better() -> None:
    assert fewer_steps([0.1, 0.2, 0.1], [0.2, 0.3, 0.2], "lower") is None
    assert margin_in_units(10.0, [0.2, 0.3], "lower") is None
    assert margin_in_units(10.0, [], "lower") is None
    # Longer runs are better only because of one replicate of three.
    assert fewer_steps([0.1, 0.2, 0.1], [0.1, 0.1, -5.0], "lower") is None


def test_one_replicate_has_no_interval_in_steps() -> None:
    found = fewer_steps([-0.02], [-0.2], "lower")
    assert found
    assert (round(found.mean, 3), found.ci95) == (9.516, None)


def test_unequal_numbers_of_differences_and_slopes_are_refused() -> None:
    with pytest.raises(ValueError, match="Every difference needs a slope"):
        fewer_steps([0.1, 0.2], [0.1], "lower")


def test_with_equal_slopes_the_steps_interval_matches_the_t_interval() -> None:
    """The jackknife of a mean is its t interval."""
    differences = np.random.default_rng(0).normal(-0.02, 0.01, 11)
    standard_error = differences.std(ddof=1) / math.sqrt(11)
    ends = [differences.mean() + sign * 2.2281 * standard_error for sign in (1, -1)]  # t table, 10 degrees of freedom
    found = fewer_steps(differences.tolist(), [-0.2] * 11, "lower")
    assert found
    assert found.ci95 == pytest.approx([percent_fewer(end / -0.2) for end in ends], rel=1e-4)


def test_steps_intervals_have_nominal_coverage() -> None:
    rng = np.random.default_rng(2)
    truth, inside, trials = percent_fewer(0.03 / 0.2), 0, 8000
    for _ in range(trials):
        found = fewer_steps(rng.normal(-0.03, 0.02, 11).tolist(), rng.normal(-0.2, 0.04, 11).tolist(), "lower")
        assert found
        assert found.ci95
        inside += found.ci95[0] <= truth <= found.ci95[1]
    assert 0.94 <= inside / trials <= 0.96


def test_a_difference_beyond_ten_times_the_steps_is_capped() -> None:
    found = fewer_steps([50.0, 60.0], [-0.001, -0.002], "lower")
    assert found is not None
    assert found.ci95 is not None
    assert found.mean == pytest.approx(-900)  # ten times the steps
    assert found.ci95[0] == pytest.approx(-900)
    assert steps_words(found.mean) == "at least 900 % more"
    assert steps_words(-50.4) == "50 % more"
