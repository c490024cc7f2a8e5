"""summary.json of studies with a known truth, compared with their replicates."""

import dataclasses
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from experiments.harness.errors import DataError, SuiteError
from experiments.study.replicates import read_replicates, replicate_path, write_replicate
from experiments.study.summary import summarize, write_summary
from tests.synthetic_study import BEST, PAPER, SLOPE, STEPS, write_study


def summarized(directory: Path) -> dict[str, Any]:
    write_summary(directory, read_replicates(directory))
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return summary


def summary_of(results: Path, *folder: str, **arguments: Any) -> dict[str, Any]:
    return summarized(write_study(results, *folder, **arguments))


def primary(summary: dict[str, Any]) -> dict[str, Any]:
    (row,) = (row for row in summary["comparisons"] if row["primary"])
    return row


def test_differences_are_between_means_of_confirm_runs(tmp_path: Path) -> None:
    row = primary(summary_of(tmp_path, gain=0.05))
    means: dict[str, list[float]] = {"lion": [], "adamw": []}
    for replicate in read_replicates(tmp_path / "image_classification/mini/mini"):
        for name, found in means.items():
            runs = [run for run in replicate.runs if run.optimizer == name and run.phase == "confirm"]
            assert len(runs) == 2
            found.append(statistics.fmean(json.loads(run.metrics.splitlines()[-1])["test/loss"] for run in runs))
    assert row["per_replicate"] == {name: pytest.approx(found) for name, found in means.items()}
    reference = stats.ttest_rel(means["lion"], means["adamw"])
    assert row["difference"]["ci95"] == pytest.approx(list(reference.confidence_interval(0.95)))
    assert row["difference"]["p"] == pytest.approx(reference.pvalue)
    assert (row["difference"]["n"], row["verdict"], row["exploratory"]) == (6, "lion", False)


def test_steps_and_margin_come_from_reference_runs_of_other_lengths(tmp_path: Path) -> None:
    row = primary(summary_of(tmp_path, gain=0.05))
    assert row["slope"] == pytest.approx(SLOPE)
    assert row["margin"] == pytest.approx(-SLOPE * math.log(1 / 0.9))
    assert row["steps_percent"]["mean"] == pytest.approx(100 * (1 - math.exp(row["difference"]["mean"] / -SLOPE)))
    low, high = row["steps_percent"]["ci95"]
    assert low < row["steps_percent"]["mean"] < high


def test_a_study_without_other_lengths_uses_the_declared_margin(tmp_path: Path) -> None:
    row = primary(summary_of(tmp_path, lengths=(), margin=0.3, gain=0.05))
    assert (row["slope"], row["steps_percent"], row["margin"], row["verdict"]) == (None, None, 0.3, "tie")
    row = primary(summary_of(tmp_path, lengths=(), gain=0.05))
    assert (row["margin"], row["verdict"]) == (None, "lion")


def test_replicates_beyond_the_declared_number_are_reproductions(tmp_path: Path) -> None:
    alone = summary_of(tmp_path / "a", gain=0.05)
    both = summary_of(tmp_path / "b", gain=0.05, numbers=[*range(6), 6, 9])
    assert (both["replicates"], both["reproductions"]) == ([0, 1, 2, 3, 4, 5], [6, 9])
    assert primary(both)["difference"] == primary(alone)["difference"]
    for row in primary(both)["reproductions"]:
        assert row["difference"] == pytest.approx(row["lion"] - row["adamw"])
        low, high = primary(both)["prediction95"]
        assert row["inside"] is (low <= row["difference"] <= high)
    far = summary_of(tmp_path / "c", gain=0.05, numbers=range(6))
    directory = tmp_path / "c/image_classification/mini/mini"
    other = write_study(tmp_path / "d", gain=0.5, numbers=[6])
    replicate_path(other, 6).rename(replicate_path(directory, 6))
    assert [row["inside"] for row in primary(summarized(directory))["reproductions"]] == [False]
    assert primary(far)["reproductions"] == []


@pytest.mark.parametrize(
    ("numbers", "exploratory", "verdict"),
    [(range(6), False, "lion"), (range(4), True, "lion"), (range(3), True, None), ([1], True, None), ([7], True, None)],
)
def test_other_replicates_than_declared_are_exploratory(
    tmp_path: Path, numbers: list[int], exploratory: bool, verdict: str | None
) -> None:
    row = primary(summary_of(tmp_path, gain=0.1, numbers=numbers))
    assert (row["exploratory"], row["verdict"]) == (exploratory, verdict)
    assert row["reproductions"] == [], "a study with none of the declared ones is somebody's own"


def test_a_scale_that_declares_no_replicates_has_no_verdict(tmp_path: Path) -> None:
    row = primary(summary_of(tmp_path, declared=0, gain=0.1))
    assert row["difference"]["n"] == 6
    assert row["verdict"] is None


@pytest.mark.parametrize(
    ("diverged", "verdict"),
    [
        ([(0, "lion")], "undecided"),
        ([(n, "lion") for n in range(4)], "adamw"),
        ([(0, "lion"), (1, "adamw")], "undecided"),
    ],
)
def test_a_replicate_with_a_diverged_confirm_run_has_no_difference(
    tmp_path: Path, diverged: list[tuple[int, str]], verdict: str
) -> None:
    row = primary(summary_of(tmp_path, gain=0.1, diverged=diverged))
    missing = {(n, name) for name, values in row["per_replicate"].items() for n, x in enumerate(values) if x is None}
    assert missing == {*diverged}
    assert row["difference"]["n"] == 6 - len({number for number, _ in diverged})
    assert row["verdict"] == verdict
    others = [number for number in range(6) if number not in dict(diverged)]
    alone = primary(summary_of(tmp_path / "others", gain=0.1, numbers=others))
    assert alone["verdict_without_diverged"] is None, "nothing is left out"
    assert row["verdict_without_diverged"] == alone["verdict"]


def test_a_winner_is_withheld_while_the_searches_have_not_settled(tmp_path: Path) -> None:
    # Lion's basin is a tenth as wide, so that its last stage gains far more than AdamW's.
    row = primary(summary_of(tmp_path, gain=0.05, spread=0.001, widths={"lion": 0.05}, stages=(2, 2)))
    assert row["unsettled"] > abs(row["difference"]["mean"])
    assert row["verdict"] == "withheld"
    settled = primary(
        summary_of(tmp_path, gain=0.05, spread=0.001, best={"lion": BEST["adamw"], "adamw": BEST["adamw"]})
    )
    assert settled["unsettled"] == pytest.approx(0, abs=0.02)
    assert settled["verdict"] == "lion"


def test_winners_at_the_edge_of_the_space_are_flagged(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, best={"lion": (0.5, 3.0, 0.5, -2.0), "adamw": BEST["adamw"]}, stages=(20, 9, 9))
    assert primary(summary)["box_limited"] == {"lion": ["betas 1"], "adamw": []}, "and not the zero end of the decay"
    assert statistics.median(value["betas 1"] for value in summary["optimizers"]["lion"]["values"]) > 100


def test_best_so_far_is_the_running_best_of_each_search(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    for replicate, best in zip(
        read_replicates(tmp_path / "image_classification/mini/mini"),
        summary["optimizers"]["lion"]["best_so_far"],
        strict=True,
    ):
        values = [run.last("val/loss") for run in replicate.of("lion", "search")]
        assert best == [min((v for v in values[:k] if v is not None), default=None) for k in range(1, 10)]
    ends = [row["trials"] for row in summary["ease"]["lion"]]
    assert ends == [4, 7, 9]


def test_winners_positions_and_values_are_those_of_the_best_trials(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    for number, replicate in enumerate(read_replicates(tmp_path / "image_classification/mini/mini")):
        trials = [run for run in replicate.of("adamw", "search") if not run.diverged]
        best = min(trials, key=lambda run: run.last("val/loss") or math.inf)
        assert summary["optimizers"]["adamw"]["positions"][number] == list(best.unit)
        assert summary["optimizers"]["adamw"]["winners"][number]["lr"] == best.plain["optimizer"]["lr"]
        memory = summary["optimizers"]["adamw"]["values"][number]["betas 1"]
        assert memory == pytest.approx(2 * (STEPS / 2) ** best.unit[1])
    assert "space" not in summary["optimizers"]["adamw"]["winners"][0]


def test_the_regime_names_model_training_memories_and_reach(tmp_path: Path) -> None:
    model, training, memories, reach = summary_of(tmp_path)["regime"].values()
    assert model == "ConvNet, 0.24 M parameters"
    assert training == "batch 128, 200 steps (0.64 epochs)"
    assert re.fullmatch(r"Lion \S+ \(\S+ to \S+\) and .*, AdamW \S+ \(\S+ to \S+\) and .*\)", memories)
    assert re.fullmatch(r"0\.\d{4} in loss with 6 replicates \(what \S+ % fewer steps cost\)", reach)


def test_replicates_are_grouped_by_hardware(tmp_path: Path) -> None:
    environments = summary_of(tmp_path, hardware={2: "another processor", 4: "another processor"})["environments"]
    assert [environment["replicates"] for environment in environments] == [[0, 1, 3, 5], [2, 4]]


def test_mixed_data_and_mixed_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"mixes data f+ .* and 0123 "):
        summary_of(tmp_path, fingerprints={3: "0123"})
    directory = write_study(tmp_path / "other", numbers=range(2))
    _, second = read_replicates(directory)
    status = json.dumps(json.loads(second.runs[0].status) | {"sources_digest": "another-lion"})
    changed = (dataclasses.replace(second.runs[0], status=status), *second.runs[1:])
    write_replicate(replicate_path(directory, 1), dataclasses.replace(second, runs=changed))
    with pytest.raises(SuiteError, match="replicate 1 were made by source code with different digests"):
        summarized(directory)


def test_a_study_that_does_not_measure_its_primary_metric_is_refused(tmp_path: Path) -> None:
    directory = write_study(tmp_path, numbers=range(2))
    described = json.loads((directory / "study.json").read_text())
    described["study"]["primary_metric"] = "test/top5"
    with pytest.raises(SuiteError, match=r"do not measure study.primary_metric=test/top5"):
        summarize(described, read_replicates(directory))


def test_a_study_of_another_schema_is_refused(tmp_path: Path) -> None:
    directory = write_study(tmp_path, numbers=[0])
    (directory / "study.json").write_text('{"schema": 1}')
    with pytest.raises(DataError, match="has schema 1, but this version reads 2"):
        summarized(directory)


def test_only_the_papers_own_settings_are_compared_with_its_claim(tmp_path: Path) -> None:
    rows = summary_of(tmp_path, scale="paper", **PAPER)["comparisons"]
    top1 = next(row for row in rows if row["metric"] == "test/top1")
    assert (top1["paper"]["kind"], top1["paper"]["by"], top1["paper"]["outcome"]) == ("gain", "lion", "confirmed")
    assert (top1["paper"]["lion"], top1["paper"]["adamw"]) == (77.44, 75.48)
    assert primary({"comparisons": rows})["verdict"] is None, (
        "3 replicates are no verdict, only what is said to a claim"
    )
    searched = summary_of(tmp_path, gain=0.05, paper=PAPER["paper"])["comparisons"]
    assert [row["paper"] for row in searched] == [None, None]


def test_every_other_optimizer_is_compared_with_the_reference(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, optimizers=("lion", "adamw", "sgd"))
    assert [(row["a"], row["b"]) for row in summary["comparisons"] if row["primary"]] == [
        ("lion", "adamw"),
        ("sgd", "adamw"),
    ]


def test_the_summary_is_reproducible(tmp_path: Path) -> None:
    directory = write_study(tmp_path, numbers=range(3))
    summarized(directory)
    first = (directory / "summary.json").read_bytes()
    summarized(directory)
    assert (directory / "summary.json").read_bytes() == first


def test_flatness_is_the_increase_of_the_training_loss_under_noise(tmp_path: Path) -> None:
    directory = write_study(tmp_path, numbers=range(2))
    for replicate in read_replicates(directory):
        runs = []
        for place, run in enumerate(replicate.runs):
            row = {"step": STEPS, "flatness/train_loss": 1.0 + place, "flatness/perturbed_loss": 1.5 + 2 * place}
            runs.append(dataclasses.replace(run, metrics=run.metrics + json.dumps(row) + "\n"))
        write_replicate(replicate_path(directory, replicate.number), dataclasses.replace(replicate, runs=tuple(runs)))
    (flatness,) = (row for row in summarized(directory)["comparisons"] if row["metric"].startswith("flatness/"))
    places = [place for place, run in enumerate(replicate.runs) if run.phase == "confirm" and run.optimizer == "lion"]
    assert flatness["per_replicate"]["lion"] == [0.5 + statistics.fmean(places)] * 2
