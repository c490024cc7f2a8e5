"""Emulators and protocols on synthetic replicates of known loss."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.harness.errors import SuiteError
from experiments.simulation.emulator import Emulator, Trials, all_trials, levels_of
from experiments.simulation.protocols import (
    EmulatedSearches,
    Side,
    algoperf,
    by_margin,
    default_settings,
    judged,
    rate_grid,
    replicated,
    search,
)
from experiments.simulation.robustness import by_box, by_budget, cost_of_betas, settled_after, verdict_of
from experiments.simulation.scored import Scored, default_position
from experiments.study.statistics import ALPHA
from experiments.study.surrogate import SPREAD_BELOW, drawn_in, most_probable
from tests.synthetic_study import BEST, write_study

STAGES = (8, 14, 8)


def trials(better_by: float = 0.0, replicates: int = 6, noise: float = 0.01) -> Trials:
    """20 random trials per replicate on a bowl around 0.3."""
    rng = np.random.default_rng([int(1000 * better_by), replicates])
    units = rng.random((20 * replicates, 2))
    losses = ((units - 0.3) ** 2).sum(axis=1) - better_by + noise * rng.standard_normal(len(units))
    return Trials(units, losses, np.repeat(np.arange(replicates), 20))


def emulator(better_by: float = 0.0, noise: float = 0.01) -> Emulator:
    return Emulator(trials(better_by, noise=noise), np.zeros(6), np.random.default_rng(0))


def test_the_emulator_recovers_the_surface_and_its_noise() -> None:
    found, rng = emulator(noise=0.02), np.random.default_rng(1)
    points = 0.1 + 0.4 * rng.random((50, 2))
    truth = ((points - 0.3) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.expected(points), truth, atol=0.02)
    runs = np.stack([found.runs(points, place % 6, rng) for place in range(300)])
    assert 0.014 < (runs - found.expected(points)).std() < 0.03
    assert found.explained > 0.9


def test_an_emulator_explains_what_leaving_out_each_trial_predicts() -> None:
    given = trials(replicates=1)
    above = (given.losses - given.losses.min()) / (SPREAD_BELOW * (np.median(given.losses) - given.losses.min()))
    values = stats.zscore(drawn_in(above))
    fit, _ = most_probable(given.units[None], values[None], np.random.default_rng(0))
    mean, covariance = fit.mean[0, 0], np.linalg.inv(fit.inverse[0, 0])
    errors = []
    for i in range(20):
        others = np.delete(np.arange(20), i)
        alone = np.linalg.solve(covariance[np.ix_(others, others)], values[others] - mean)
        errors.append(values[i] - mean - covariance[i, others] @ alone)
    whole = Emulator(given, np.zeros(1), np.random.default_rng(0))
    assert whole.explained == pytest.approx(1 - np.var(errors), rel=1e-6)
    assert whole.expected(given.units).shape == (20,)


def test_replicate_levels_are_shared_by_both_optimizers_and_removed() -> None:
    plain = trials()
    shifts = np.array([0.0, 1.0, -1.0, 2.0, 0.0, 0.5])
    shifted = Trials(plain.units, plain.losses + shifts[plain.replicates], plain.replicates)
    levels = levels_of([shifted, shifted], 6) - levels_of([plain, plain], 6)
    np.testing.assert_allclose(levels, shifts - shifts.mean(), atol=1e-12)


def test_diverged_trials_are_given_the_worst_finite_value(tmp_path: Path) -> None:
    scored = Scored(write_study(tmp_path, stages=STAGES))
    found = all_trials(scored.study, scored.replicates, "lion")
    assert len(found.losses) == 6 * 30
    diverged = found.units[:, 0] > 0.9
    assert diverged.any()
    assert (found.losses[diverged] == found.losses.max()).all()
    with pytest.raises(SuiteError, match="val/nothing"):
        all_trials({**scored.study, "validation_metric": "val/nothing"}, scored.replicates, "lion")


def test_single_numbers_differ_only_beyond_the_margin() -> None:
    assert [by_margin(a, 1.0, 0.1) for a in (0.8, 0.95, 1.2)] == ["a", "tie", "b"]
    assert judged([1.0, 1.0, 1.0], [2.0, 2.0, 2.1], 0.0) is None, "three pairs are too few"
    assert judged([1.0, 1.0, 1.0, 1.1], [2.0, 2.0, 2.1, 2.0], 0.0) == "a"


def test_protocols_find_a_large_difference_and_not_a_small_one() -> None:
    rng = np.random.default_rng(0)
    at, rates = np.array([0.3, 0.3]), np.array([[0.1, 0.3], [0.25, 0.3], [0.35, 0.3], [0.6, 0.3]])
    better, worse = Side(emulator(0.3), at, rates), Side(emulator(), at, rates)
    assert default_settings(better, worse, 0, 0.05, rng) == "a"
    assert default_settings(worse, better, 0, 0.05, rng) == "b"
    assert default_settings(worse, worse, 0, 0.5, rng) == "tie"
    assert rate_grid(better, worse, 0, 0.05, rng) == "a"
    assert algoperf(better, worse, [0, 1, 2], 0.05, rng) == "a"
    assert default_settings(Side(worse.emulator, None, None), better, 0, 0.0, rng) is None


def test_the_suites_search_finds_the_optimum_of_an_emulator() -> None:
    found = search(emulator(), [0, 1, 2], (4, 6, 2), 2, np.random.default_rng(0))
    assert (found.best <= found.before).all()
    assert found.confirmed.mean() < 0.05


def test_the_verdict_by_budget_counts_trials_within_each_replicate() -> None:
    # a is ahead from its third trial on, in every replicate.
    units, places = np.zeros((20, 1)), np.repeat(np.arange(4), 5)
    jitter = 0.01 * np.random.default_rng(0).standard_normal(20)
    a = Trials(units, np.tile([3.0, 2.0, 0.5, 0.5, 0.5], 4) + jitter, places)
    b = Trials(units, np.tile([1.0, 1.0, 1.0, 1.0, 1.0], 4) - jitter, places)
    assert by_budget(a, b, 4, 0.1) == ["b", "b", "a", "a", "a"]
    assert settled_after(["b", "b", "a", "a", "a"]) == 3
    assert settled_after(["a", "a"]) == 1
    assert by_budget(a, b, 3, 0.1) == [None] * 5, "three replicates have no verdict"


def test_the_box_cut_that_changes_a_verdict_is_at_the_good_trials() -> None:
    rng = np.random.default_rng(0)
    places, at = np.repeat(np.arange(6), 30), np.tile(np.linspace(0, 1, 30), 6)[:, None]
    a = Trials(at, np.where(at[:, 0] > 0.7, 0.0, 2.0) + 0.05 * rng.standard_normal(180), places)
    b = Trials(at, 1 + 0.05 * rng.standard_normal(180), places)
    assert verdict_of(a, b, 6, 0.01) == "a"
    cuts = by_box("a", a, b, 6, 0.01, [{"name": "lr", "zero": 0.0}])
    assert [cut.end for cut in cuts] == ["high"]
    assert cuts[0].share == pytest.approx(0.3)
    assert by_box("b", a, b, 6, 0.01, [{"name": "lr", "zero": 0.0}]) == []


def test_the_cost_of_betas_is_the_loss_from_fixing_them() -> None:
    given = trials()
    cost = cost_of_betas(emulator(), given, {1: 0.8}, np.random.default_rng(0))
    assert cost == pytest.approx(0.25, abs=0.03)
    assert cost_of_betas(emulator(), given, {1: 0.3}, np.random.default_rng(0)) == pytest.approx(0, abs=0.01)


def test_default_settings_are_located_in_the_search_space() -> None:
    memory = {"argument": "betas", "kind": "memory", "low": 2.0, "high": 200.0, "zero": 0.0, "copies": 1}
    space = [
        {"name": "lr", "argument": "lr", "kind": "rate", "low": 1e-5, "high": 1e-1, "zero": 0.0, "copies": 1},
        {"name": "betas 1", **memory},
        {"name": "betas 2", **memory},
        {"name": "wd", "argument": "weight_decay", "kind": "decay", "low": 1e-3, "high": 1e1, "zero": 0.2, "copies": 1},
    ]
    # lion.yaml: lr 1e-3, betas 0.9 and 0.99, decay 0.1; 100 steps at full rate make a sum of 0.01.
    position = default_position("lion", space, 100.0)
    assert position == pytest.approx([0.5, np.log(5) / np.log(100), np.log(50) / np.log(100), 0.2 + 0.8 * 0.25])
    assert default_position("lion_8bit", space, 100.0) == pytest.approx(position)  # its file begins with lion.yaml's
    assert default_position("no_such_optimizer", space, 100.0) is None
    assert default_position("lion", space, None) is None
    assert default_position("lion", [{**space[0], "argument": "nothing"}], 100.0) is None


def test_emulators_of_a_study_are_fitted_with_its_verdict_and_margin(tmp_path: Path) -> None:
    scored = Scored(write_study(tmp_path, stages=STAGES, gain=0.2, margin=0.03))
    scored.learn()
    assert scored.verdict == "a"
    assert scored.margin == 0.03
    found = scored.sides["a"].emulator.expected(np.array([BEST["lion"], (0.9, 0.9, 0.9, 0.9)]))
    assert found[0] < found[1]
    assert Scored(write_study(tmp_path, experiment="one", numbers=[0])).why_not() == "it has 1 of at least 2 replicates"
    assert Scored(write_study(tmp_path, experiment="fixed", stages=[])).why_not() == "nothing was searched"


def test_exchanging_searches_at_random_hides_a_difference_between_two_pools() -> None:
    rng = np.random.default_rng(0)
    zeros = np.zeros(48)
    a, b = (EmulatedSearches(zeros, zeros, mean + rng.standard_normal(48)) for mean in (0.6, 0.0))
    winners = 0
    for _ in range(1000):
        drawn, swap = rng.integers(48, size=8), rng.random(8) < 0.5
        first, second = a.chosen(drawn), b.chosen(drawn)
        assert np.array_equal(first.mixed(second, swap).confirmed + second.mixed(first, swap).confirmed,
                              first.confirmed + second.confirmed)  # fmt: skip
        winners += replicated(first.mixed(second, swap), second.mixed(first, swap), 0.0) in ("a", "b")
    assert winners < 1000 * (ALPHA + 0.02)
