"""The statistics page: equal sources give identical bytes, and its text agrees with its tables."""

import re
from pathlib import Path

import pytest
import yaml

from experiments.harness.source_code import ROOT
from experiments.simulation.designs import CHOSEN, Effort
from experiments.simulation.statistics_page import noise_of_runs, statistics_page
from experiments.simulation.studies import SURFACES
from experiments.study.replicates import read_replicates
from tests.synthetic_study import write_study

LITTLE = Effort(SURFACES[1:2], 2, 2, 2, 20)


@pytest.fixture(scope="module")
def page() -> str:
    return statistics_page(LITTLE, ROOT / "results")


def test_the_statistics_page_is_reproducible(page: str) -> None:
    assert statistics_page(LITTLE, ROOT / "results") == page


def test_numbers_in_the_statistics_text_appear_in_its_tables(page: str) -> None:
    assert "nan" not in page
    for title in (
        "How do search procedures compare?",
        "What does withholding do?",
        "How small a difference can be detected?",
        "Do the committed studies resemble these?",
    ):
        answer, *rest = page.split(f"## {title}\n\n")[1].split("\n## ")[0].split("\n\n")
        assert answer.startswith("**")
        for value in re.findall(r"\d+\.\d+", answer):
            assert value in "\n".join(rest), f"{value} of the answer is not in the table of: {title}"


def test_the_noise_of_runs_pools_confirm_runs_of_an_optimizer_in_a_replicate(tmp_path: Path) -> None:
    replicates, names, squares = read_replicates(write_study(tmp_path)), ("lion", "adamw"), []
    for each in replicates:
        for name in names:
            runs = [run for run in each.runs if run.optimizer == name and run.phase == "confirm"]
            a, b = (run.rows[-1]["test/loss"] for run in runs)
            squares.append((a - b) ** 2 / 2)
    expected = (sum(squares) / len(squares)) ** 0.5
    assert noise_of_runs(names, "test/loss", replicates) == pytest.approx(expected)


def test_every_surface_is_simulated_with_every_rival(page: str) -> None:
    rows = [line for line in page.splitlines() if line.startswith("| images: ")]
    assert len(rows) == 5


def test_the_page_reports_no_difference_to_a_copy_in_other_units(page: str) -> None:
    assert re.search(r"differ by at most (0|\de-1\d) SD", page)


def test_the_simulated_design_matches_the_study_config() -> None:
    staged = yaml.safe_load((ROOT / "conf" / "study" / "staged.yaml").read_text())
    assert staged["replicates"] == CHOSEN.replicates
    assert tuple(staged["stages"]) == CHOSEN.stages
    assert staged["confirm"] == CHOSEN.confirm
