"""Studies in which every trial of an optimizer diverged: it has no winner, and no page says that it has one."""

import shutil
import warnings
from pathlib import Path

import pytest

from experiments.report.dashboard.pages import study_page as dashboard_page
from experiments.report.dashboard.records import published_studies
from experiments.report.dashboard.study_sections import pair_sections
from experiments.report.rebuild import read_summary
from experiments.report.rebuild import write_study as write_page
from experiments.study.replicates import read_replicates
from tests.report.conftest import WriteStudy


def page_of(directory: Path) -> str:
    """The page, written without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_page(directory)
    return (directory / "README.md").read_text()


@pytest.mark.parametrize("study", [{}, {"numbers": [0], "stages": (2,)}, {"numbers": [0], "stages": (1, 1)}])
def test_an_optimizer_that_never_trains_has_neither_a_winner_nor_an_edge(
    write_study: WriteStudy, study: dict[str, object]
) -> None:
    directory = write_study(never_trains=("lion",), **study)
    page = page_of(directory)
    lion = read_summary(directory)["optimizers"]["lion"]
    assert set(lion["winners"]) == set(lion["positions"]) == set(lion["values"]) == {None}
    assert lion["box_limited"] == []
    count = len(lion["winners"])
    assert f"In {count} of {count} replicates every trial of Lion diverged, so it has no winner there" in page
    assert "; memories of the winners in steps: AdamW " in page, "Lion's would stand before"
    assert "| Lion | peak learning rate | 1e-05 to 0.01 | n/a | n/a |" in page
    assert "| 0 | Lion: all trials diverged | n/a |" in page
    assert "runs of one or the other diverged in every replicate" in page
    assert "in which both completed" in page.split("\n\n")[1]
    assert "of Lion's" not in page.split("\n\n")[2]
    (shown,) = published_studies(directory.parents[2])
    assert "every trial of Lion diverged" in dashboard_page(shown)
    (pair,) = pair_sections(shown.summary, shown.replicates)
    assert not any(name.startswith("Lion: ") for name in pair["table"]["head"])
    assert any(name.startswith("AdamW: ") for name in pair["table"]["head"])


def test_other_replicates_keep_their_winners_if_one_search_found_none(write_study: WriteStudy) -> None:
    directory = write_study(never_trains=("lion",))
    whole = write_study("lit")
    for number in range(1, 6):
        shutil.copyfile(whole / f"replicates/{number}.parquet", directory / f"replicates/{number}.parquet")
    page = page_of(directory)
    lion = read_summary(directory)["optimizers"]["lion"]
    expected = [
        min(each.of("lion", "search"), key=lambda run: run.last("val/loss") or 9.0)
        for each in read_replicates(whole)[1:]
    ]
    assert lion["positions"] == [None, *(list(run.unit) for run in expected)]
    assert "In 1 of 6 replicates every trial of Lion diverged" in page
    rows = [line for line in page.splitlines() if line.startswith(("| 0 | Lion", "| 1 | Lion"))]
    assert [": all trials diverged" in row for row in rows] == [True, False]


def test_a_study_in_which_nothing_trains_has_no_figures_of_its_searches(write_study: WriteStudy) -> None:
    directory = write_study(never_trains=("lion", "adamw"))
    page = page_of(directory)
    assert not list(directory.glob("settings.png")) + list(directory.glob("ease-of-tuning.svg"))
    assert "every trial of AdamW diverged" in page
    assert "nan" not in page
