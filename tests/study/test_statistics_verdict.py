"""Every branch of the verdict on hand-made data, and its error rates on simulated runs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.study.statistics import LEAST_REPLICATES, Difference, holm, is_at_edge, paired_difference, verdict

# Multiples of 1/8 add and subtract without rounding, so that equal means equal.
EIGHTHS = st.integers(0, 800).map(lambda i: i / 8)
RULE: dict[str, Any] = {"a": "lion", "b": "adamw", "better": "higher", "margin": 1.0}


def judge(a: list[float], b: list[float], **rule: Any) -> str | None:
    return verdict(paired_difference(a, b), **{**RULE, **rule})


LOW, HIGH = [60.0, 60.5, 61.0, 60.2], [65.1, 65.4, 66.2, 65.0]
UP, DOWN = [61.0, 62.0, 63.0, 64.0], [60.0, 61.0, 62.0, 63.0]
"""apart by exactly 1"""


@pytest.mark.parametrize(
    ("a", "b", "rule", "expected"),
    [
        # A clear difference names the better optimizer, with or without a margin.
        (HIGH, LOW, {}, "lion"),
        (LOW, HIGH, {}, "adamw"),
        (HIGH, LOW, {"better": "lower"}, "adamw"),
        (LOW, HIGH, {"better": "lower"}, "lion"),
        (HIGH, LOW, {"margin": None}, "lion"),
        # A small difference is a tie, unless there is no margin. A scattered one is undecided.
        (DOWN, [60.1, 60.9, 62.1, 62.9], {}, "tie"),
        (LOW, LOW, {"margin": 0.0}, "tie"),
        (LOW, LOW, {"margin": None}, "undecided"),
        ([60.0, 66.0, 61.0, 64.0], [63.0, 61.0, 64.0, 60.0], {}, "undecided"),
        # An interval that touches the margin is within it.
        (UP, DOWN, {}, "tie"),
        (DOWN, UP, {}, "tie"),
        (UP, DOWN, {"margin": 0.999}, "lion"),
    ],
)
def test_the_verdict_of_runs(a: list[float], b: list[float], rule: dict[str, Any], expected: str) -> None:
    assert judge(a, b, **rule) == expected


def test_a_significant_difference_within_the_margin_is_a_tie() -> None:
    a = [60.50, 61.51, 62.49, 63.50]
    assert paired_difference(a, DOWN).ci95[0] > 0
    assert judge(a, DOWN) == "tie"


@pytest.mark.parametrize(
    ("ci90", "ci95", "unsettled", "expected"),
    [
        # An interval that touches zero contains it.
        ((0.5, 4.5), (0.0, 5.0), None, "undecided"),
        ((0.5, 4.5), (0.1, 4.9), None, "lion"),
        # A tie uses the 90 % interval and a win the 95 % interval.
        ((-0.9, 0.9), (-1.1, 1.1), None, "tie"),
        ((0.1, 2.9), (-0.1, 3.1), None, "undecided"),
        # A winner by less than the difference in search gains is withheld, and a tie if they differ by more than the
        # margin, but an undecided verdict is not.
        ((2.5, 3.5), (2.4, 3.6), 2.9, "lion"),
        ((2.5, 3.5), (2.4, 3.6), 3.1, "withheld"),
        ((-3.5, -2.5), (-3.6, -2.4), 3.1, "withheld"),
        ((-0.5, 0.5), (-0.6, 0.6), 1.0, "tie"),
        ((-0.5, 0.5), (-0.6, 0.6), 1.1, "withheld"),
        ((-2.0, 2.5), (-2.2, 2.7), 5.0, "undecided"),
    ],
)
def test_the_verdict_of_intervals(
    ci90: tuple[float, float], ci95: tuple[float, float], unsettled: float | None, expected: str
) -> None:
    difference = Difference(sum(ci90) / 2, ci95, ci90, 0.5, 8, 1.0, None, None)
    assert verdict(difference, **RULE, unsettled=unsettled) == expected


def test_a_verdict_needs_4_replicates() -> None:
    assert LEAST_REPLICATES == 4
    assert judge(HIGH[:3], LOW[:3]) is None
    assert verdict(None, **RULE) is None
    assert verdict(None, **RULE, diverged={"lion": 3, "adamw": 0}, replicates=3) is None


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


@pytest.mark.parametrize(
    ("rule", "message"),
    [({"margin": -1.0}, "margin"), ({"margin": float("nan")}, "margin"), ({"better": "Higher"}, "'higher' or 'lower'")],
)
def test_an_invalid_margin_or_direction_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(LOW, HIGH, **rule)


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


def test_error_rates_and_power_on_simulated_runs() -> None:
    identical = shares(0.0, trials=1500)
    # 2.5 % a side, plus three binomial standard errors of 1500 trials.
    assert identical["lion"] < 0.025 + 0.012
    assert identical["adamw"] < 0.025 + 0.012
    assert shares(1.0, trials=1500)["tie"] < 0.05 + 0.017, "a difference as large as the margin"
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
