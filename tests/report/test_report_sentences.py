"""The verdict in words, against sentences and numbers written by hand."""

from typing import Any

import pytest

from experiments.report.labels import amount, megabytes, metric_title, number, probability, scientific, verdict_name
from experiments.report.sentences import verdict_sentence


def study(
    verdict: str | None,
    *,
    mean: float,
    ci95: tuple[float, float],
    metric: str = "test/top1",
    better: str = "higher",
    diverged: tuple[int, int] = (0, 0),
    seeds: int = 8,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A summary and its one comparison, Lion against AdamW, with a 90 % interval of 0.8 times the 95 % interval."""
    ci90 = tuple(mean + 0.8 * (end - mean) for end in ci95)
    comparison = {
        "a": "lion",
        "b": "adamw",
        "metric": metric,
        "better": better,
        "mean": {"lion": 50 + mean, "adamw": 50.0},
        "difference": {"mean": mean, "ci_winner": ci95, "ci_tie": ci90, "n": seeds} if seeds > 1 else None,
        "margin": 1.0,
        "verdict": verdict,
    }
    optimizers = {"lion": {"diverged": diverged[0]}, "adamw": {"diverged": diverged[1]}}
    looks = {"alpha": 0.05, "exploratory": False}
    return {"seeds": list(range(seeds)), "looks": looks, "optimizers": optimizers}, comparison


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"verdict": "adamw", "mean": -1.9, "ci95": (-2.7, -1.1)},
            "AdamW beats Lion by 1.90 points in test top-1 accuracy (95 % interval 1.10 to 2.70, 8 paired seeds).",
        ),
        (
            {"verdict": "lion", "mean": 1.9, "ci95": (1.1, 2.7)},
            "Lion beats AdamW by 1.90 points in test top-1 accuracy (95 % interval 1.10 to 2.70, 8 paired seeds).",
        ),
        (
            {"verdict": "lion", "mean": -2, "ci95": (-3, -1), "metric": "test/log_perplexity", "better": "lower"},
            "Lion beats AdamW by 2.0000 nats in test log-perplexity "
            "(lower is better, 95 % interval 1.0000 to 3.0000, 8 paired seeds).",
        ),
        (
            {"verdict": "tie", "mean": 0.1, "ci95": (-0.4, 0.6)},
            "Tie: Lion and AdamW differ by no more than 1.00 points in test top-1 accuracy "
            "(Lion minus AdamW is 0.10 points, 90 % interval -0.30 to 0.50, 8 paired seeds).",
        ),
        (
            {"verdict": "undecided", "mean": -0.5, "ci95": (-1.5, 0.5), "seeds": 6},
            "Undecided: Lion minus AdamW is -0.50 points in test top-1 accuracy (95 % interval -1.50 to 0.50, "
            "6 paired seeds); that is too uncertain to name a winner, or to call it a tie within 1.00 points.",
        ),
        (
            {"verdict": None, "mean": 0.5, "ci95": (0, 0), "seeds": 1, "metric": "test/fid", "better": "lower"},
            "No verdict: one paired seed gives no interval. Lion minus AdamW is 0.50 in test FID.",
        ),
        (
            {"verdict": "undecided", "mean": 5, "ci95": (4, 6), "diverged": (1, 0)},
            "Undecided, because training diverged: Lion in 1 of 8 and AdamW in 0 of 8 seeds.",
        ),
        (
            {"verdict": "adamw", "mean": 5, "ci95": (4, 6), "diverged": (6, 0)},
            "AdamW beats Lion, whose training diverged in most seeds: Lion in 6 of 8 and AdamW in 0 of 8.",
        ),
    ],
)
def test_the_sentence_names_the_winner_the_amount_and_the_interval(arguments: dict[str, Any], sentence: str) -> None:
    assert verdict_sentence(*study(**arguments)) == sentence


def test_a_look_that_shares_the_5_percent_names_its_own_levels() -> None:
    for verdict, level in (("adamw", "97.5 %"), ("undecided", "97.5 %"), ("tie", "95 %")):
        summary, comparison = study(verdict, mean=-1.9, ci95=(-2.7, -1.1))
        summary["looks"]["alpha"] = 0.025
        assert f"{level} interval " in verdict_sentence(summary, comparison)


def test_a_look_that_was_not_declared_makes_the_verdict_exploratory() -> None:
    summary, comparison = study("adamw", mean=-1.9, ci95=(-2.7, -1.1))
    assert verdict_name(summary, comparison) == "AdamW"
    summary["looks"]["exploratory"] = True
    assert verdict_name(summary, comparison) == "AdamW (exploratory)"
    assert verdict_sentence(summary, comparison).endswith("judged before with other seeds, which was not declared.")


def test_numbers_are_written_for_readers() -> None:
    assert number(61.237, 2) == "61.24"
    assert number(-0.001, 2) == "0.00"
    assert number(1.5, 2, "+") == "+1.50"
    assert number(None, 2) == "n/a"
    assert [scientific(x) for x in (1e-3, 0.00178, 5.62e-5, 10.0)] == ["1e-3", "1.78e-3", "5.62e-5", "1e1"]
    assert [probability(p) for p in (0.0, 0.00099, 0.001, 0.0346, 1.0)] == [
        "< 0.001",
        "< 0.001",
        "0.001",
        "0.035",
        "1.000",
    ]
    assert megabytes(1_920_000) == "1.920"
    assert amount(-1.906, "test/top1") == "-1.91 points"
    assert amount(0.5, "test/fid") == "0.50"


def test_a_metric_without_a_label_keeps_its_recorded_name() -> None:
    assert metric_title("test/top1") == "test top-1 accuracy, %"
    assert metric_title("val/log_perplexity") == "validation log-perplexity, nats"
    assert metric_title("test/edit_distance") == "test edit_distance"
