"""Studies in which a confirm run diverged: their numbers are those of a selection, and marked as such everywhere."""

import io
import re

from rich.console import Console

from experiments.harness.source_code import ROOT
from experiments.report.dashboard.study_sections import pair_sections, result_tables
from experiments.report.overview import overview_page
from experiments.report.rebuild import read_summary
from experiments.report.rebuild import write_study as write_page
from experiments.report.sentences import ease_sentence, reproduction_sentences, steps_sentence, verdict_sentence
from experiments.report.tables import claims_table, decided_by, result_table, selection_note
from experiments.report.terminal import print_verdict
from experiments.study.replicates import read_replicates
from tests.report.conftest import WriteStudy, by_folder
from tests.report.test_report_overview import rows_of
from tests.report.test_report_sentences import study
from tests.report.test_report_tables import cells
from tests.synthetic_study import PAPER


def test_sentences_about_a_selection_of_the_replicates_say_so() -> None:
    rows = [{"replicate": 11, "difference": -0.4, "inside": True}]
    summary, row = study("undecided", diverged=(0, 2), verdict_without_diverged="adamw", reproductions=rows)
    other = row | {"metric": "test/loss", "primary": False, "better": "lower", "difference": {"mean": 0.2}}
    other["difference"]["ci95"] = (0.1, 0.3)
    other["mean"] = {"lion": 50.2, "adamw": 50.0}
    summary["comparisons"].append(other)
    assert "Other metrics, also of a selection: test loss (in 9 of 11: +0.2000, 95 % " in verdict_sentence(summary, row)
    assert steps_sentence(summary, row).startswith(
        "In steps, in the 9 of 11 replicates without a diverged run, which are a selection: Lion needs 14 % more steps"
    )
    committed, yours = reproduction_sentences(row)
    assert committed.endswith(", 9 of 11 replicates, a selection: in the others a run diverged).")
    assert "one replicate (in 9 of 11: -4.00 to 0.20): consistent" in yours
    summary["ease"] = {"lion": [{"trials": 12, "difference": {"mean": 0.02, "ci95": (0.01, 0.03), "n": 9}}]}
    assert "(0.0100 to 0.0300, in 9 of 11 replicates: in the others every trial had" in ease_sentence(summary, "lion")


def test_every_number_of_a_selection_of_the_replicates_is_marked(write_study: WriteStudy) -> None:
    rows = read_summary(write_study(gain=0.1, diverged=[(2, "adamw")]))
    for row in cells(result_table(rows, rows["comparisons"]))[1:]:
        assert all(cell.startswith("in 5 of 6: ") for cell in row[2:7]), row
        assert row[7] == "5 of 6"
    assert selection_note(rows["comparisons"]).startswith('"in 5 of 6": in the other replicates a confirm run diverged')
    facts = decided_by(rows["comparisons"][0])
    assert all(fact.startswith("in 5 of 6, ") for fact in facts[:-1])
    assert facts[-1].startswith("the gains in the last search stage"), "which all replicates have"
    assert not any("test: p" in fact for fact in facts)
    whole = read_summary(write_study("lit", gain=0.1))
    assert selection_note(whole["comparisons"]) == ""
    assert " of 6:" not in result_table(whole, whole["comparisons"])
    assert any("t test: p" in fact for fact in decided_by(whole["comparisons"][0]))


def test_a_selection_neither_confirms_nor_contradicts_the_papers_claims(write_study: WriteStudy) -> None:
    rows = read_summary(write_study(scale="paper", **PAPER | {"diverged": [(2, "adamw")]}))["comparisons"]
    _, top1 = cells(claims_table(rows))
    assert top1[3].startswith("in 2 of 3: +")
    assert top1[4:] == ["n/a", "n/a"]


def test_the_overview_marks_the_numbers_of_a_selection_and_gives_them_no_p(write_study: WriteStudy) -> None:
    page = overview_page(by_folder(write_study("diffusion", gain=0.1, diverged=[(2, "adamw")]), write_study("lit")))
    lost, whole = rows_of(page).values()
    assert all(cell.startswith("in 5 of 6: ") for cell in (*lost[3:5], lost[6]))
    assert lost[10:] == ["\N{EN DASH}", "1.000"]
    assert not any("in 5 of" in cell for cell in whole)
    assert re.match(r"0\.\d{3}$|< 0.001$", whole[10])
    assert '"in 5 of 6": in the other replicates a confirm run diverged' in page
    assert "Holm's p counts such a comparison as p = 1." in page
    assert "such a comparison" not in overview_page(by_folder(write_study("lit")))


def test_a_page_of_a_selection_says_so_in_regime_captions_and_speed_up(write_study: WriteStudy) -> None:
    directory = write_study("diffusion", samples=True, diverged=[(2, "adamw")])
    write_page(directory)
    page = (directory / "README.md").read_text()
    assert "with 5 replicates of 6, as runs diverged in the others" in page.split("\n\n")[1]
    captions = dict(re.findall(r"!\[.*\]\((.*)\)\n\n\*(.*)\*", page))
    marked = {name for name, caption in captions.items() if "a selection." in caption}
    assert marked == {"paired-differences-lion-adamw.svg", "learning-curves.svg", "sample-distances.svg"}
    assert "Pairs of which a run diverged are left out" in page
    write_page(write_study("lit"))
    assert "selection" not in (directory.parents[2] / "lit/mini/mini/README.md").read_text()


def test_the_terminal_marks_a_selection_within_80_characters(write_study: WriteStudy) -> None:
    output = io.StringIO()
    directory = write_study(gain=0.1, diverged=[(2, "adamw")])
    print_verdict(read_summary(directory), directory, ROOT / "runs", Console(file=output, width=80))
    table, _, rest = output.getvalue().partition("└")
    assert len(re.findall(r"in 5 of 6", re.sub(r"\s+", " ", table))) == 2
    assert "…" not in table
    assert rest.splitlines()[1].startswith('"in 5 of 6": in the other replicates a confirm run diverged')


def test_the_dashboard_marks_the_table_the_mean_and_the_charts_of_a_selection(write_study: WriteStudy) -> None:
    directory = write_study(gain=0.1, diverged=[(2, "adamw")])
    summary = read_summary(directory)
    tables = "".join(result_tables(summary))
    assert tables.count("in 5 of 6: ") == 10
    assert "in the other replicates a confirm run diverged" in tables
    (pair,) = pair_sections(summary, read_replicates(directory))
    for words in (pair["table"]["mean_of"], *(caption for caption, _ in pair["charts"].values())):
        assert words.endswith(", in 5 of 6 replicates: a selection, as a run diverged in the others")
