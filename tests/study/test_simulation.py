"""The simulation against theory that it does not use: noncentral t, an integral, order statistics, binomial errors."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from experiments.study.simulation import (
    NOISES,
    coverage,
    family_wise_error,
    identical_speedups,
    is_false,
    noise,
    rng_of,
    shares,
    split_seeds_verdicts,
    tuned_studies,
    verdicts,
    winners_after_looks,
)
from experiments.study.statistics import ALPHA, paired_difference, t_intervals, verdict

STUDIES = 4000


def error(share: float, studies: int = STUDIES) -> float:
    """Four binomial standard errors: a right simulation is outside once in 16 000 checks."""
    return 4 * math.sqrt(share * (1 - share) / studies)


def normal(n: int, studies: int = STUDIES) -> np.ndarray:
    return noise("normal", rng_of("test", n), (studies, n))


@pytest.mark.parametrize("n", [2, 8, 10])
def test_many_studies_at_once_get_what_each_would_get_alone(n: int) -> None:
    differences = 0.8 + normal(n, 40)
    ci95, ci90, p = t_intervals(differences)
    outcomes = verdicts(differences, margin=1.0)
    for i, row in enumerate(differences.tolist()):
        alone = paired_difference(row, [0.0] * n)
        assert (*ci95[i], *ci90[i], p[i]) == pytest.approx((*alone.ci95, *alone.ci90, alone.p), rel=1e-12)
        nobody = {"a": 0, "b": 0}
        assert outcomes[i] == verdict(alone, a="a", b="b", better="higher", margin=1.0, diverged=nobody, seeds=n)
    assert len(set(outcomes)) > 1, "these studies must not all end alike, or the comparison shows nothing"


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_mean_0_and_standard_deviation_1(kind: str) -> None:
    drawn = noise(kind, rng_of("test", kind), (400_000,))
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    # The variance of heavy tails converges slowly: it has no variance itself.
    assert drawn.std() == pytest.approx(1, abs=0.05 if kind == "heavy-tailed" else 0.01)
    assert stats.skew(drawn) == pytest.approx({"normal": 0, "skewed": 2}.get(kind, stats.skew(drawn)), abs=0.1)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_intervals_cover_normal_differences_as_promised(n: int) -> None:
    held90, held95 = coverage(0.3 + normal(n), 0.3)
    assert held90 == pytest.approx(0.90, abs=error(0.90))
    assert held95 == pytest.approx(0.95, abs=error(0.95))


@pytest.mark.parametrize("n", [3, 8, 20])
@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0])
def test_power_is_that_of_the_noncentral_t(n: int, effect: float) -> None:
    share = shares(verdicts(effect + normal(n), margin=0.0))
    beyond = stats.t.ppf(0.975, n - 1)
    right, wrong = (
        stats.nct.sf(beyond, n - 1, effect * math.sqrt(n)),
        stats.nct.cdf(-beyond, n - 1, effect * math.sqrt(n)),
    )
    assert share["a"] == pytest.approx(right, abs=error(right))
    assert share["b"] == pytest.approx(wrong, abs=error(wrong) + 1e-3)
    assert share["winner"] == pytest.approx(right + wrong, abs=error(right + wrong))


@pytest.mark.parametrize("n", [3, 8, 20])
@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_ties_of_identical_optimizers_are_as_frequent_as_the_integral_says(n: int, margin: float) -> None:
    """Tie: |mean| + t s / sqrt(n) <= margin, with a normal mean and, independent of it, a chi distributed s."""
    t = stats.t.ppf(0.95, n - 1)

    def density(s: float) -> float:
        of_s = stats.chi.pdf(s * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1)
        return of_s * max(0.0, 2 * stats.norm.cdf(margin * math.sqrt(n) - t * s) - 1)

    expected = integrate.quad(density, 0, margin * math.sqrt(n) / t)[0]
    assert shares(verdicts(normal(n), margin))["tie"] == pytest.approx(expected, abs=error(expected))


def test_a_tie_on_the_edge_of_the_margin_is_called_in_at_most_5_percent() -> None:
    for n in (3, 8, 20):
        assert shares(verdicts(1.0 + normal(n), margin=1.0))["tie"] <= 0.05 + error(0.05)


@pytest.mark.parametrize(("trials", "largest"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (4, 1.0294)])
def test_the_winning_tuning_score_is_too_good_by_the_expected_maximum(trials: int, largest: float) -> None:
    """Of ``trials`` standard normals (Harter 1961); a tuning run has variance 1/2, the mean of 4 tuning seeds 1/8."""
    for tuning_seeds in (1, 4):
        tuned = tuned_studies(rng_of("test"), {"a": trials, "b": trials}, tuning_seeds, 0.0, 2, STUDIES)
        std = math.sqrt(0.5 / tuning_seeds)
        assert tuned.optimism.mean() == pytest.approx(largest * std, abs=4 * std / math.sqrt(STUDIES))


def test_fresh_seeds_are_unbiased_about_the_settings_that_tuning_chose() -> None:
    tuned = tuned_studies(rng_of("test"), {"a": 15, "b": 2}, 1, 1.0, 8, STUDIES)
    assert tuned.true_difference.mean() > 0.3, "more trials do find better settings"
    bias = (tuned.differences.mean(axis=1) - tuned.true_difference).mean()
    assert bias == pytest.approx(0, abs=4 / math.sqrt(8 * STUDIES))
    assert (tuned.tuning_difference - tuned.true_difference).mean() > 0.2, "and their tuning score is too good"
    assert coverage(tuned.differences, tuned.true_difference)[1] == pytest.approx(0.95, abs=error(0.95))


def test_tuning_without_noise_leaves_identical_optimizers_identical() -> None:
    tuned = tuned_studies(rng_of("test"), {"a": 4, "b": 4}, 10**12, 1.0, 2, 200)
    assert np.abs(tuned.true_difference).max() == 0


def test_which_verdicts_are_false() -> None:
    assert [is_false("tie", truth, margin=1) for truth in (-1.1, -1, 0, 1, 1.1)] == [True, False, False, False, True]
    assert [is_false("a", truth, margin=1) for truth in (-0.1, 0, 0.1)] == [True, True, False]
    assert [is_false("b", truth, margin=1) for truth in (-0.1, 0, 0.1)] == [False, True, True]
    assert not is_false("undecided", 5.0, margin=1)


def test_runs_without_noise_are_never_faster_than_each_other() -> None:
    for speedup in identical_speedups(rng_of("test"), 0.0, 20, 4, 3):
        assert (speedup.reached, speedup.median, speedup.aa.median) == (4, 1.0, 1.0)


def test_noise_alone_makes_a_speedup_and_the_aa_value_shows_as_much() -> None:
    found = identical_speedups(rng_of("test"), 1.0, 60, 8, 200)
    medians = [speedup.median for speedup in found if speedup.median]
    aa = [speedup.aa.median for speedup in found if speedup.aa.median]
    assert np.median(medians) > 1.1
    assert np.median(aa) == pytest.approx(np.median(medians), abs=0.05)


@pytest.mark.parametrize("tasks", [1, 5])
def test_a_family_without_effects_errs_by_chance_and_holm_keeps_it_at_5_percent(tasks: int) -> None:
    own, adjusted = family_wise_error(rng_of("test", tasks), tasks, 0, 8, STUDIES)
    assert own == pytest.approx(1 - 0.95**tasks, abs=error(1 - 0.95**tasks))
    # Independent p values, all of true hypotheses: Holm rejects any where Bonferroni does.
    expected = 1 - (1 - 0.05 / tasks) ** tasks
    assert adjusted == pytest.approx(expected, abs=error(expected))


def test_looks_that_share_alpha_err_no_more_often_than_one() -> None:
    drawn = normal(16)
    assert winners_after_looks(drawn, (16,), ALPHA) == pytest.approx(0.05, abs=error(0.05))
    # By hand, of two tests that each err in 5 %: at least the one, at most the sum.
    unshared = winners_after_looks(drawn, (8, 16), ALPHA)
    assert 0.05 + error(0.05) < unshared < 0.1
    assert winners_after_looks(drawn, (8, 16), ALPHA / 2) < 0.05 + error(0.05)


def test_only_rejections_of_true_hypotheses_count_as_errors() -> None:
    assert family_wise_error(rng_of("test"), 3, 3, 8, 500) == (0, 0)
    own, adjusted = family_wise_error(rng_of("test"), 3, 2, 20, STUDIES)
    assert own == pytest.approx(0.05, abs=error(0.05))
    assert adjusted == pytest.approx(0.05, abs=error(0.05)), "with both effects found, Holm leaves the third its 5 %"


def test_runs_of_one_optimizer_are_dealt_out_in_every_way() -> None:
    values = np.random.default_rng(0).normal(60, 1, 7).tolist()
    outcomes = split_seeds_verdicts(values, 0.1, "higher")
    assert len(outcomes) == math.comb(6, 3)
    assert outcomes == split_seeds_verdicts(values[:6], 0.1, "higher"), "an odd run is left out"
    assert outcomes.count("a") == outcomes.count("b")
    assert set(split_seeds_verdicts([60.0] * 8, 0.1, "higher")) == {"tie"}
    # Two kinds of runs, all alike within a kind: only the splits by kind, of equal differences, are certain.
    assert split_seeds_verdicts([1.0, 1.0, 2.0, 2.0], 0.1, "lower") == ["a", "tie", "tie", "tie", "tie", "b"]


def test_equal_names_give_equal_streams_and_other_names_give_others() -> None:
    assert rng_of("x", 1).random() == rng_of("x", 1).random() != rng_of("x", 2).random()
