"""The tables of a synthetic study, cell by cell."""

from experiments.report.rebuild import read_summary
from experiments.report.tables import (
    claims_table,
    cost_table,
    decided_by,
    environments_table,
    markdown_table,
    nuisance_table,
    replicates_table,
    result_table,
    spaces_table,
    speedup_table,
)
from tests.report.conftest import WriteStudy
from tests.synthetic_study import PAPER


def cells(table: str) -> list[list[str]]:
    """Head and rows of a Markdown table."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1, "every row must have as many cells as the head"
    return [lines[0], *lines[2:]]


def test_the_result_table_has_every_metric_and_marks_the_deciding_one(write_study: WriteStudy) -> None:
    summary = read_summary(write_study(gain=0.1))
    row = summary["comparisons"][0]
    head, loss, top1 = cells(result_table(summary, summary["comparisons"]))
    assert head[:5] == ["metric", "verdict", "Lion", "AdamW", "Lion - AdamW"]
    low, high = row["difference"]["ci95"]
    more, fewer = row["steps_percent"]["ci95"]
    assert loss == [
        "test loss (lower is better)",
        "**Lion**",
        f"{row['mean']['lion']:.4f}",
        f"{row['mean']['adamw']:.4f}",
        f"{row['difference']['mean']:+.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{row['steps_percent']['mean']:.0f} % fewer ({fewer:.0f} % fewer to {more:.0f} % fewer)",
        "6 of 6",
    ]
    assert top1[:2] == ["test top-1 accuracy, % (higher is better)", ""]


def test_a_study_without_a_verdict_shows_no_steps_column(write_study: WriteStudy) -> None:
    summary = read_summary(write_study("lit", "smoke", "smoke", gain=0.1, declared=0))
    assert summary["comparisons"][0]["steps_percent"], "the records would give some"
    table = result_table(summary, summary["comparisons"])
    assert len(cells(table)[0]) == 7
    assert "steps" not in table


def test_the_interval_over_test_examples_is_stated_only_if_wider(write_study: WriteStudy) -> None:
    summary = read_summary(write_study())
    row = summary["comparisons"][0]
    (low, high), words = row["difference"]["ci95"], "the choice of test examples adds nothing to it"
    row["by_example"] = {"ci95": [low, high], "replicates": 6, "examples": 1066}
    (fact,) = (fact for fact in decided_by(row) if "1,066 test examples" in fact)
    assert fact.endswith(words)
    row["by_example"]["ci95"] = [low - 0.1, high + 0.1]
    (fact,) = (fact for fact in decided_by(row) if "1,066 test examples" in fact)
    assert fact.endswith(f"6 replicates: {low - 0.1:.4f} to {high + 0.1:.4f}")


def test_the_papers_claims_are_shown_only_for_its_own_settings(write_study: WriteStudy) -> None:
    rows = read_summary(write_study(scale="paper", **PAPER))["comparisons"]
    head, top1 = cells(claims_table(rows))
    assert head[-2:] == ["outcome", "pairs needed"]
    assert top1[1:3] == ["77.44 / 75.48 (image_classification.vit_b16, Table 2, exact)", "Lion is better"]
    assert top1[4] == "**confirmed**"
    assert claims_table(read_summary(write_study(gain=0.1))["comparisons"]) == ""


def test_the_spaces_table_marks_box_limited_dimensions(write_study: WriteStudy) -> None:
    summary = read_summary(write_study(best={"lion": (0.5, 3.0, 0.5, 0.5)}, stages=(20, 9, 9)))
    rows = cells(spaces_table(summary))[1:]
    assert [row[:3] for row in rows[:4]] == [
        ["Lion", "peak learning rate", "1e-05 to 0.01"],
        ["Lion", "memory of beta 1, steps", "2 to 200"],
        ["Lion", "memory of beta 2, steps", "2 to 200"],
        ["Lion", "decay over the run", "0, 0.01 to 10"],
    ]
    assert [row[1] for row in rows if row[4] == "**yes: box-limited**"] == ["memory of beta 1, steps"]


def test_tables_show_redrawn_settings_divergence_hardware_and_cost(write_study: WriteStudy) -> None:
    arguments = {"gain": 0.1, "numbers": range(7), "diverged": [(2, "lion")], "hardware": {3: "another processor"}}
    summary = read_summary(
        write_study(nuisance={"train.clip_norm": {"low": 0.5, "high": 2.0, "log": True}}, **arguments)
    )
    (drawn,) = cells(nuisance_table(summary))[1:]
    assert drawn == ["`train.clip_norm`", "0.5 to 2, log-uniform", "0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1"]
    rows = cells(replicates_table(summary, summary["comparisons"][0]))[1:]
    assert rows[2][1:] == ["diverged", rows[2][2], "n/a", "counted as diverged"]
    assert rows[6][4].startswith("reproduction: ")
    assert [row[0] for row in cells(environments_table(summary))[1:]] == ["0 to 2, 4 to 6", "3"]
    lion = cells(cost_table(summary))[1]
    assert lion[:5] == ["Lion", "1.920", "50", "1.25", "10.0"]
    assert lion[-1] == "2 of 12"


def test_the_speedup_table_includes_the_aa_comparison(write_study: WriteStudy) -> None:
    rows = read_summary(write_study(gain=0.1, confirm=3))["comparisons"]
    head, loss, top1 = cells(speedup_table(rows))
    assert head == ["metric", "Lion reaches AdamW's end", "AdamW reaches Lion's end", "AdamW reaches AdamW's end (A/A)"]
    assert (loss[0], top1[0]) == ("validation loss", "validation top-1 accuracy, %")
    assert loss[1].endswith("x, 18 of 18")
    assert loss[3].endswith("of 36"), "three runs of a replicate chase each other"


def test_a_pipe_in_a_markdown_cell_is_escaped() -> None:
    assert markdown_table(["a", "b"], [["x|y", "z"]]).splitlines()[-1] == "| x\\|y | z |"
