"""Every branch of the verdict on hand-made data, and its error rates on simulated runs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness.metric import Better
from experiments.study.statistics import LEAST_REPLICATES, Difference, holm, is_at_edge, paired_difference, verdict

# Multiples of 1/8 add and subtract without rounding, so that equal means equal.
EIGHTHS = st.integers(0, 800).map(lambda i: i / 8)


RULE: dict[str, Any] = {"a": "lion", "b": "adamw", "better": "higher", "margin": 1.0}


def judge(a: list[float], b: list[float], **rule: Any) -> str | None:
    return verdict(paired_difference(a, b), **{**RULE, **rule})


def of_intervals(ci90: tuple[float, float], ci95: tuple[float, float], **rule: Any) -> str | None:
    return verdict(Difference(sum(ci90) / 2, ci95, ci90, 0.5, 8, 1.0, None, None), **{**RULE, **rule})


LOW, HIGH = [60.0, 60.5, 61.0, 60.2], [65.1, 65.4, 66.2, 65.0]


@pytest.mark.parametrize(
    ("a", "b", "better", "winner"),
    [
        (HIGH, LOW, "higher", "lion"),
        (LOW, HIGH, "higher", "adamw"),
        (HIGH, LOW, "lower", "adamw"),
        (LOW, HIGH, "lower", "lion"),
    ],
)
def test_a_clear_difference_names_the_better_optimizer(
    a: list[float], b: list[float], better: Better, winner: str
) -> None:
    assert judge(a, b, better=better) == winner


def test_a_small_difference_is_a_tie() -> None:
    assert judge([60.0, 61.0, 62.0, 63.0], [60.1, 60.9, 62.1, 62.9]) == "tie"


def test_a_significant_difference_within_the_margin_is_a_tie() -> None:
    a, b = [60.50, 61.51, 62.49, 63.50], [60.0, 61.0, 62.0, 63.0]
    assert paired_difference(a, b).ci95[0] > 0
    assert judge(a, b) == "tie"


def test_a_scattered_difference_is_undecided() -> None:
    assert judge([60.0, 66.0, 61.0, 64.0], [63.0, 61.0, 64.0, 60.0]) == "undecided"


def test_equal_runs_are_a_tie_whatever_the_margin() -> None:
    assert judge(LOW, LOW, margin=0.0) == "tie"


def test_an_interval_that_touches_the_margin_is_within_it() -> None:
    assert judge([61.0, 62.0, 63.0, 64.0], [60.0, 61.0, 62.0, 63.0], margin=1.0) == "tie"
    assert judge([60.0, 61.0, 62.0, 63.0], [61.0, 62.0, 63.0, 64.0], margin=1.0) == "tie"
    assert judge([61.0, 62.0, 63.0, 64.0], [60.0, 61.0, 62.0, 63.0], margin=0.999) == "lion"


def test_an_interval_that_touches_zero_contains_it() -> None:
    assert of_intervals(ci90=(0.5, 4.5), ci95=(0.0, 5.0)) == "undecided"
    assert of_intervals(ci90=(0.5, 4.5), ci95=(0.1, 4.9)) == "lion"


def test_a_tie_uses_the_90_percent_interval_and_a_win_the_95_percent_interval() -> None:
    assert of_intervals(ci90=(-0.9, 0.9), ci95=(-1.1, 1.1)) == "tie"
    assert of_intervals(ci90=(0.1, 2.9), ci95=(-0.1, 3.1)) == "undecided"


def test_without_a_margin_nothing_is_a_tie() -> None:
    assert judge(LOW, LOW, margin=None) == "undecided"
    assert judge(HIGH, LOW, margin=None) == "lion"


def test_a_winner_by_less_than_the_difference_in_search_gains_is_withheld() -> None:
    assert of_intervals(ci90=(2.5, 3.5), ci95=(2.4, 3.6), unsettled=2.9) == "lion"
    assert of_intervals(ci90=(2.5, 3.5), ci95=(2.4, 3.6), unsettled=3.1) == "withheld"
    assert of_intervals(ci90=(-3.5, -2.5), ci95=(-3.6, -2.4), unsettled=3.1) == "withheld"


def test_a_tie_is_withheld_when_search_gains_differ_by_more_than_the_margin() -> None:
    assert of_intervals(ci90=(-0.5, 0.5), ci95=(-0.6, 0.6), unsettled=1.0) == "tie"
    assert of_intervals(ci90=(-0.5, 0.5), ci95=(-0.6, 0.6), unsettled=1.1) == "withheld"


def test_an_undecided_verdict_is_not_withheld() -> None:
    assert of_intervals(ci90=(-2.0, 2.5), ci95=(-2.2, 2.7), unsettled=5.0) == "undecided"


def test_a_verdict_needs_4_replicates() -> None:
    assert LEAST_REPLICATES == 4
    assert judge(HIGH[:3], LOW[:3]) is None
    assert judge(HIGH, LOW) == "lion"
    assert verdict(None, **RULE) is None


@pytest.mark.parametrize(
    ("diverged", "expected"),
    [
        ({"lion": 1, "adamw": 0}, "undecided"),
        ({"lion": 4, "adamw": 0}, "undecided"),  # half is not most
        ({"lion": 5, "adamw": 0}, "adamw"),
        ({"lion": 0, "adamw": 5}, "lion"),
        ({"lion": 0, "adamw": 8}, "lion"),
        ({"lion": 5, "adamw": 1}, "undecided"),  # it was not the only one that diverged
        ({"lion": 8, "adamw": 8}, "undecided"),
    ],
)
def test_divergence_takes_precedence_over_the_difference(diverged: dict[str, int], expected: str) -> None:
    for difference in (paired_difference(HIGH, LOW), None):
        assert verdict(difference, **RULE, diverged=diverged, replicates=8) == expected


def test_three_diverged_replicates_give_no_verdict() -> None:
    assert verdict(None, **RULE, diverged={"lion": 3, "adamw": 0}, replicates=3) is None


@pytest.mark.parametrize(
    ("positions", "zero", "expected"),
    [
        ([0.96, 0.97, 0.99, *[0.5] * 8], 0.0, True),
        ([0.96, 0.97, *[0.5] * 8], 0.0, False),  # a fifth is not more than a fifth
        ([0.01, 0.02, 0.98, 0.99, *[0.5] * 7], 0.0, False),  # at both ends: the dimension does not matter
        ([0.01, 0.02, 0.03, *[0.5] * 8], 0.0, True),
        ([0.01, 0.02, 0.03, *[0.5] * 8], 0.1, False),  # there is nothing below a decay of 0
        ([0.96, 0.97, 0.99, *[0.5] * 8], 0.1, True),
        ([0.06, 0.94, 0.5], 0.0, False),
        ([], 0.0, False),
    ],
)
def test_winners_clustered_at_an_edge_are_detected(positions: list[float], zero: float, expected: bool) -> None:
    assert is_at_edge(positions, zero > 0) is expected


@pytest.mark.parametrize("margin", [-1.0, float("nan")])
def test_a_negative_or_nan_margin_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        judge(LOW, HIGH, margin=margin)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="'higher' or 'lower'"):
        judge(LOW, HIGH, better="Higher")


@given(st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=4, max_size=6), EIGHTHS, st.none() | EIGHTHS)
def test_the_winner_is_invariant_to_swapping_names_and_negating_the_metric(
    pairs: list[tuple[float, float]], margin: float, unsettled: float | None
) -> None:
    a, b = (list(side) for side in zip(*pairs, strict=True))
    rule: dict[str, Any] = {"margin": margin, "unsettled": unsettled}
    outcome = judge(a, b, **rule)
    other_name = {"lion": "adamw", "adamw": "lion"}
    swapped = {"a": "adamw", "b": "lion", "better": "higher", **rule}
    assert verdict(paired_difference(b, a), **swapped) == outcome
    assert judge([-x for x in a], [-y for y in b], better="lower", **rule) == outcome
    assert judge(a, b, better="lower", **rule) == other_name.get(str(outcome), outcome)


def shares(true_difference: float, trials: int) -> dict[str | None, float]:
    """How often 5 pairs with this true difference, noise 1 and margin 1 give each verdict."""
    rng = np.random.default_rng(7)
    outcomes = [
        judge(rng.normal(60 + true_difference, 0.7, 5).tolist(), rng.normal(60, 0.7, 5).tolist()) for _ in range(trials)
    ]
    return {outcome: outcomes.count(outcome) / trials for outcome in ("lion", "adamw", "tie", "undecided")}


def test_identical_optimizers_rarely_get_a_winner() -> None:
    outcome = shares(0.0, trials=1500)
    # 2.5 % a side, plus three binomial standard errors of 1500 trials.
    assert outcome["lion"] < 0.025 + 0.012
    assert outcome["adamw"] < 0.025 + 0.012


def test_a_difference_as_large_as_the_margin_is_rarely_called_a_tie() -> None:
    assert shares(1.0, trials=1500)["tie"] < 0.05 + 0.017


def test_a_large_difference_is_detected() -> None:
    assert shares(4.0, trials=300)["lion"] > 0.98


def closed_test(p_values: dict[str, float], key: str) -> float:
    """The definition behind Holm: the worst Bonferroni p over every set of hypotheses that contains this one."""
    others = [p for name, p in p_values.items() if name != key]
    worst = 0.0
    for mask in range(2 ** len(others)):
        family = [p_values[key]] + [p for i, p in enumerate(others) if mask >> i & 1]
        worst = max(worst, min(1.0, len(family) * min(family)))
    return worst


def test_holm_matches_a_worked_example() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({}) == {}


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), max_size=6))
def test_holm_matches_the_closed_bonferroni_test(p_values: dict[str, float]) -> None:
    assert holm(p_values) == pytest.approx({key: closed_test(p_values, key) for key in p_values})
