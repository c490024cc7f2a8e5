"""Sentences about verdicts, compared with sentences written by hand."""

from collections.abc import Sequence
from typing import Any

import pytest

from experiments.report.labels import steps_words, verdict_name
from experiments.report.sentences import (
    ease_sentence,
    next_step,
    reproduction_sentences,
    steps_sentence,
    verdict_sentence,
)

FOUND = "Lion minus AdamW is -1.90 points in test top-1 accuracy"
WITHIN = "95 % interval -2.70 to -1.10"
MARGIN = "1.00 points (what 10 % fewer steps cost)"
DIVERGED = "Undecided, because confirm runs diverged: "
NO_TIE = "No difference can count as a tie, because longer runs of the reference are no better here."


def study(
    verdict: str | None,
    *,
    mean: float = -1.9,
    ci95: tuple[float, float] = (-2.7, -1.1),
    metric: str = "test/top1",
    better: str = "higher",
    diverged: tuple[int, int] = (0, 0),
    replicates: int = 11,
    positions: Sequence[float] = (),
    **more: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A summary and its one comparison, Lion against AdamW, with a 90 % interval of 0.8 times the 95 % interval."""
    row = {
        "a": "lion",
        "b": "adamw",
        "metric": metric,
        "primary": True,
        "better": better,
        "mean": {"lion": 50 + mean, "adamw": 50.0},
        "per_replicate": {
            name: [None] * lost + [at] * (replicates - lost)
            for name, at, lost in zip(("lion", "adamw"), (50 + mean, 50.0), diverged, strict=True)
        },
        "difference": {
            "mean": mean,
            "sd": 2.0,
            "ci95": ci95,
            "ci90": tuple(mean + 0.8 * (end - mean) for end in ci95),
            "n": replicates - max(diverged),
            "p": 0.01,
            "sign_flip_p": None,
            "variance_ratio": None,
        }
        if replicates > 1
        else None,
        "prediction95": (-4.0, 0.2),
        "by_example": None,
        "reproductions": [],
        "steps_percent": {"mean": -13.6, "ci95": (-31.2, 3.4)},
        "margin": 1.0,
        "unsettled": 2.5,
        "diverged": dict(zip(("lion", "adamw"), diverged, strict=True)),
        "verdict": verdict,
        "verdict_without_diverged": None,
        "box_limited": {"lion": [], "adamw": []},
        "exploratory": replicates < 11,
    }
    row |= {key: value for key, value in more.items() if key in row}
    summary = {
        "task": "image_classification",
        "scale": "mini",
        "declared": 11,
        "replicates": list(range(replicates)),
        "stages": [12, 10, 8],
        "lengths": [0.7, 1.4],
        "margin_percent": 10.0,
        "train_min": 12.3,
        "reference": "adamw",
        "validation_metric": "val/loss",
        "spaces": {"lion": [{"name": "eps", "kind": "plain", "zero": 0.0}], "adamw": []},
        "optimizers": {
            "lion": {"positions": [[at] for at in positions], "winners": [{}] * len(positions)},
            "adamw": {"winners": []},
        },
        "comparisons": [row],
    }
    return summary | {key: value for key, value in more.items() if key in summary}, row


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"verdict": "adamw"},
            "AdamW beats Lion by 1.90 points in test top-1 accuracy (95 % interval 1.10 to 2.70, 11 replicates; tie "
            f"margin {MARGIN}).",
        ),
        (
            {"verdict": "lion", "mean": -2, "ci95": (-3, -1), "metric": "test/log_perplexity", "better": "lower"},
            "Lion beats AdamW by 2.0000 nats in test log-perplexity (lower is better, 95 % interval 1.0000 to 3.0000, "
            "11 replicates; tie margin 1.0000 nats (what 10 % fewer steps cost)).",
        ),
        (
            {"verdict": "tie", "mean": 0.1, "ci95": (-0.4, 0.6), "margin_percent": None},
            "Tie: Lion and AdamW differ by no more than 1.00 points in test top-1 accuracy (Lion minus AdamW is 0.10 "
            "points, 90 % interval -0.30 to 0.50, 11 replicates).",
        ),
        (
            {"verdict": "undecided", "replicates": 6, "unsettled": 1.0},
            f"Exploratory (replicates 0 to 5; 11 were declared): Undecided: {FOUND} ({WITHIN}, 6 replicates); that is "
            f"too uncertain to name a winner, or to call it a tie within {MARGIN}. If the two are equal, 36 replicates "
            "would show a tie in 80 % of studies.",
        ),
        (
            {"verdict": "undecided", "margin_percent": None},
            f"Undecided: {FOUND} ({WITHIN}, 11 replicates); that is too uncertain to name a winner, or to call it a "
            "tie within 1.00 points. More replicates cannot show a tie while the gains in the searches' last stages "
            "differ by 2.50 points, more than the margin.",
        ),
        (
            {"verdict": "withheld"},
            f"Withheld: {FOUND} ({WITHIN}, 11 replicates), but the searches had not settled: the gains in their last "
            "stages differ by 2.50 points between the two.",
        ),
        (
            {"verdict": None, "replicates": 3},
            "Exploratory (replicates 0 to 2; 11 were declared): No verdict: a verdict needs 4 replicates, and there "
            f"are 3. {FOUND} ({WITHIN}, 3 replicates).",
        ),
        (
            {"verdict": None, "replicates": 1},
            "Exploratory (replicates 0; 11 were declared): No verdict: one replicate gives no interval, and a verdict "
            f"needs 4. {FOUND}.",
        ),
        (
            {"verdict": "undecided", "diverged": (1, 0), "verdict_without_diverged": "withheld"},
            f"{DIVERGED}Lion in 1 of 11 and AdamW in 0 of 11 replicates; in the other 10, {FOUND} ({WITHIN}, tie "
            f"margin {MARGIN}): alone, these would be withheld, but they are a selection.",
        ),
        (
            {"verdict": "undecided", "diverged": (1, 0), "verdict_without_diverged": "adamw", "margin": None},
            f"{DIVERGED}Lion in 1 of 11 and AdamW in 0 of 11 replicates; in the other 10, {FOUND} ({WITHIN}): alone, "
            f"these would be a win for AdamW, but they are a selection. {NO_TIE}",
        ),
        (
            {"verdict": "undecided", "diverged": (8, 1), "margin": None},
            f"{DIVERGED}Lion in 8 of 11 and AdamW in 1 of 11 replicates; in the other 3, {FOUND} ({WITHIN}): alone, "
            f"these would be too few for a verdict, but they are a selection. {NO_TIE}",
        ),
        (
            {"verdict": "adamw", "diverged": (6, 0)},
            "AdamW beats Lion, whose confirm runs diverged in most replicates: Lion in 6 of 11 and AdamW in 0 of 11.",
        ),
        (
            {"verdict": "adamw", "declared": 0, "scale": "smoke"},
            "No verdict: smoke. This scale only exercises the code; its numbers mean nothing.",
        ),
    ],
)
def test_the_verdict_sentence_is_exact_for_every_kind_of_verdict(arguments: dict[str, Any], sentence: str) -> None:
    assert verdict_sentence(*study(**arguments)) == sentence


def test_a_winner_by_less_than_the_margin_at_one_end_of_the_interval_may_be_too_small_to_matter() -> None:
    said = "so the difference may be too small to matter"
    assert said in verdict_sentence(*study("adamw", margin=1.2))
    assert said not in verdict_sentence(*study("adamw", margin=1.0))
    assert said.replace("may be", "is probably") in verdict_sentence(*study("adamw", margin=2.0))


def test_the_verdict_sentence_includes_its_qualifications() -> None:
    positions = (0.97, 0.3, 0.99, 0.5, 0.01)
    limited = study("adamw", box_limited={"lion": ["eps"], "adamw": []}, positions=positions)
    assert verdict_sentence(*limited).endswith(
        "Box-limited: of Lion's 5 winners, 2 are at the top and 1 is at the bottom of eps, so better settings may lie "
        "outside the search space; if so, this study understates Lion."
    )
    assert verdict_name(*limited) == "AdamW (box-limited)"
    both = study("lion", box_limited={"lion": ["eps"], "adamw": ["eps"]}, positions=positions)
    assert verdict_sentence(*both).endswith("the search space.")
    spaces = {"lion": [{"name": "betas 1", "kind": "memory", "zero": 0.0}], "adamw": []}
    memory = study("adamw", box_limited={"lion": ["betas 1"]}, positions=positions, spaces=spaces)
    assert "winners, 2 are at the top of memory of beta 1, steps, so" in verdict_sentence(*memory)  # 0 is no edge
    assert verdict_name(*study("tie", replicates=5)) == "tie (exploratory)"
    assert verdict_name(*study("tie", declared=0, scale="smoke")) == "no verdict: smoke"
    assert verdict_name(*study(None, replicates=2)) == "no verdict"
    assert "Nothing was searched" in verdict_sentence(*study("adamw", stages=[]))
    assert "No difference can count as a tie" in verdict_sentence(*study("adamw", margin=None))


def test_the_verdict_says_when_it_holds_only_for_these_test_examples() -> None:
    wide, narrow = ({"ci95": ends, "replicates": 11, "examples": 1066} for ends in ((-4.0, 0.2), (-2.9, -0.9)))
    assert verdict_sentence(*study("adamw", by_example=wide)).endswith(
        "This holds for these 1,066 test examples: if they are treated as a random sample, the 95 % interval is "
        "-4.00 to 0.20."
    )
    assert verdict_sentence(*study("adamw", by_example=narrow)) == verdict_sentence(*study("adamw"))
    assert "test examples" not in verdict_sentence(*study("undecided", by_example=wide))


@pytest.mark.parametrize(
    ("verdict", "loss", "said"),
    [
        ("adamw", (-0.3, -0.1), True),  # a lower loss is Lion's
        ("adamw", (0.1, 0.3), False),
        ("adamw", (-0.1, 0.3), False),
        ("tie", (0.1, 0.3), True),
        ("undecided", (0.1, 0.3), True),
    ],
)
def test_the_verdict_mentions_a_metric_that_favours_another_optimizer(
    verdict: str, loss: tuple[float, float], said: bool
) -> None:
    summary, row = study(verdict)
    other = row | {"metric": "test/loss", "primary": False, "better": "lower", "verdict": None}
    other["difference"] = {"mean": sum(loss) / 2, "ci95": loss}
    summary["comparisons"].append(other)
    sentence = verdict_sentence(summary, row)
    assert ("; but test loss (" in sentence) is said
    if said:
        assert f"favours {'Lion' if loss[1] < 0 else 'AdamW'}." in sentence
        assert sentence.count(". ") <= 1, "it is the same sentence"


def test_a_difference_in_steps_is_worded_as_fewer_or_more() -> None:
    words = ["12 % fewer", "0.2 % fewer", "0.3 % more", "14 % more"]
    assert list(map(steps_words, (12.4, 0.2, -0.31, -13.6))) == words
    assert steps_sentence(*study("adamw")) == (
        "In steps: Lion needs 14 % more steps than AdamW for the same test top-1 accuracy (95 % interval 3 % fewer to "
        "31 % more)."
    )
    far = study("lion", steps_percent={"mean": 60.0, "ci95": None})
    assert steps_sentence(*far).endswith("beyond the relative lengths that AdamW was run for (0.7, 1, 1.4).")
    assert "do not show that test top-1" in steps_sentence(*study("lion", steps_percent=None))
    assert "no runs of other lengths" in steps_sentence(*study("lion", steps_percent=None, lengths=[]))


def test_a_reproduction_is_compared_with_the_prediction_interval() -> None:
    found = ((11, 77.0, 77.4, -0.4, True), (12, 78.0, 77.1, 0.9, False), (13, 77.0, None, None, None))
    rows = [dict(zip(("replicate", "lion", "adamw", "difference", "inside"), row, strict=True)) for row in found]
    assert reproduction_sentences(study("adamw", reproductions=rows)[1]) == [
        "Committed: Lion - AdamW = -1.90 in test top-1 accuracy (95 % interval -2.70 to -1.10, 11 replicates).",
        "Reproduction (replicate 11): -0.40, inside the 95 % prediction interval for one replicate (-4.00 to 0.20): "
        "consistent.",
        "Reproduction (replicate 12): +0.90, outside the 95 % prediction interval for one replicate (-4.00 to 0.20): "
        "not consistent.",
        "Reproduction (replicate 13): a confirm run of AdamW diverged, so it has no difference.",
    ]
    alone = [{"replicate": 11, "difference": -0.4, "inside": None}]
    assert reproduction_sentences(study(None, replicates=1, reproductions=alone, prediction95=None)[1]) == [
        "Reproduction (replicate 11): -0.40. Too few replicates are committed to compare it with."
    ]
    assert reproduction_sentences(study("adamw")[1]) == []


def test_ease_of_tuning_is_stated_after_each_stage() -> None:
    summary, _ = study("adamw")
    told = {"mean": 0.02, "ci95": (0.01, 0.03), "n": 11}
    summary["ease"] = {"lion": [{"trials": 12, "difference": told}, {"trials": 22, "difference": None}]}
    assert "after 12 trials +0.0200 (0.0100 to 0.0300). The" in ease_sentence(summary, "lion")
    summary["ease"] = {"lion": [{"trials": 12, "difference": None}]}
    assert ease_sentence(summary, "lion") == ""


def test_the_next_step_states_the_cost_of_a_verdict() -> None:
    sentence = next_step(study(None, replicates=1)[0])
    assert "study.numbers=0-3 (with make, REPLICATES=0-3) runs the 3 that are missing" in sentence
    own_task, _ = study(None, replicates=1)
    assert "study.numbers=0-3 runs the 3" in next_step(own_task | {"task": "my_package.my_task"}), "it has no target"
    assert "about 13 minutes of training each on one core, 39 in total" in sentence
    short, _ = study(None, replicates=1, train_min=0.4)
    assert "about 1 minute of training each on one core, 3 in total" in next_step(short)
    assert next_step(study("tie", replicates=4)[0]) == ""
    assert next_step(study(None, replicates=1, declared=0)[0]) == ""
