"""The tables of a synthetic study, cell by cell."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.report.tables import (
    cost_table,
    markdown_table,
    other_metrics_table,
    print_verdict,
    result_table,
    settings_table,
    speedup_table,
    tuning_table,
)

WriteStudy = Callable[..., Path]


def read(directory: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return summary


def cells(table: str) -> list[list[str]]:
    """Head and rows of a Markdown table."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1, "every row must have as many cells as the head"
    return [lines[0], *lines[2:]]


def test_a_bar_in_a_cell_does_not_open_another_column() -> None:
    assert markdown_table(["a", "b"], [["x|y", "z"]]).splitlines()[-1] == "| x\\|y | z |"


def test_result_table_puts_our_numbers_above_the_papers(write_study: WriteStudy) -> None:
    summary = read(write_study())
    comparison = summary["comparisons"][0]
    head, ours, paper = cells(result_table(summary, comparison))
    assert head[:4] == ["test top-1 accuracy, %", "Lion", "AdamW", "Lion - AdamW"]
    low, high = comparison["difference"]["ci95"]
    assert ours == [
        "this study, mean",
        f"{comparison['mean']['lion']:.2f}",
        f"{comparison['mean']['adamw']:.2f}",
        f"{comparison['difference']['mean']:+.2f}",
        f"{low:.2f} to {high:.2f}",
        "8 of 8",
        "4 / 4",
        "AdamW",
    ]
    assert paper[:4] == ["paper (image_classification.vit_b16, Table 2, exact)", "77.44", "75.48", "+1.96"]
    assert paper[-1] == "disagrees"


def test_the_schema_without_the_optional_keys_is_enough(write_study: WriteStudy) -> None:
    summary = read(write_study())
    comparison = summary["comparisons"][0]
    comparison["paper"] = {"lion": 77.44, "adamw": 75.48, "source": "Table 2", "agrees": None}
    assert cells(result_table(summary, comparison))[2][0] == "paper (Table 2)"


def test_digitised_numbers_show_their_uncertainty(write_study: WriteStudy) -> None:
    summary = read(write_study())
    comparison = summary["comparisons"][0]
    comparison["paper"] |= {"trust": "digitised", "uncertainty": 0.05}
    assert "digitised within ±0.05" in cells(result_table(summary, comparison))[2][0]


def test_other_metrics_have_an_interval_and_no_verdict(write_study: WriteStudy) -> None:
    summary = read(write_study())
    head, row = cells(other_metrics_table(summary["comparisons"][1:]))
    assert "verdict" not in head
    assert row[0] == "test loss (lower is better)"
    assert " to " in row[4]


def test_settings_table_flags_a_winner_at_the_edge_of_its_grid(write_study: WriteStudy) -> None:
    _, lion, adamw = cells(settings_table(read(write_study(at_grid_edge=["adamw"], diverged={"lion": 2}))))
    assert lion == ["Lion", "1e-3", "0.1", "0.9, 0.99", "4", "no", "2 of 8"]
    assert adamw == ["AdamW", "5e-3", "0.02", "0.9, 0.99", "4", "**yes**: better settings may lie outside", "0 of 8"]


def test_tuning_table_marks_one_chosen_trial_an_optimizer_and_says_which_diverged(write_study: WriteStudy) -> None:
    rows = cells(tuning_table(read(write_study())))[1:]
    assert [row[0] for row in rows] == ["Lion"] * 4 + ["AdamW"] * 4
    assert [row[1] for row in rows if row[4] == "chosen"] == ["1e-3", "5e-3"]
    assert [row[3] for row in rows[:4]] == ["53.10", "56.85", "58.10", "diverged"]


def test_a_study_that_tuned_nothing_has_no_tuning_table(write_study: WriteStudy) -> None:
    summary = read(write_study(tuned=False))
    assert tuning_table(summary) == ""
    assert cells(settings_table(summary))[1][5] == "n/a"


def test_speedup_table_shows_both_directions_and_the_same_optimizer(write_study: WriteStudy) -> None:
    speedup = {"reached": 0, "of": 8, "median": None, "reverse": {"reached": 8, "of": 8, "median": 1.333}}
    comparison = {"a": "lion", "b": "adamw", "speedup": speedup | {"aa": {"reached": 28, "of": 56, "median": 1.14}}}
    assert cells(speedup_table(comparison))[1:] == [
        ["Lion reaches AdamW's final value", "0 of 8", "n/a"],
        ["AdamW reaches Lion's final value", "8 of 8", "1.33x"],
        ["AdamW reaches the final value of AdamW with another seed (A/A)", "28 of 56", "1.14x"],
    ]


def test_an_optimizer_whose_runs_all_diverged_has_no_cost_and_no_mean(write_study: WriteStudy) -> None:
    summary = read(write_study(diverged={"lion": 8}))
    _, lion, adamw = cells(cost_table(summary))
    assert lion == ["Lion", "n/a", "n/a", "n/a", "n/a"]
    assert adamw == ["AdamW", "1.920", "50.000", "1.25", "81.5"]
    ours = cells(result_table(summary, summary["comparisons"][0]))[1]
    assert ours[1:] == ["n/a", "n/a", "n/a", "n/a", "0 of 8", "4 / 4", "AdamW"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({}, "AdamW beats Lion by"), ({"seeds": 1}, "No verdict"), ({"diverged": {"lion": 8}}, "AdamW beats Lion, whose")],
)
def test_the_terminal_shows_the_verdict_and_every_metric(
    write_study: WriteStudy, arguments: dict[str, Any], expected: str
) -> None:
    output = io.StringIO()
    print_verdict(read(write_study(**arguments)), Console(file=output, width=200))
    assert output.getvalue().startswith(expected)
    assert "test top-1 accuracy, %" in output.getvalue()
    assert "test loss" in output.getvalue()


def test_printing_a_verdict_needs_neither_matplotlib_nor_torch() -> None:
    check = "import sys, experiments.report.tables; sys.exit(len({'matplotlib', 'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
