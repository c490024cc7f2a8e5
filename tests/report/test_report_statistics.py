"""The page about the statistics: what it says is what its tables show, and the committed studies are read rightly."""

import json
import re
import statistics
from pathlib import Path

import pytest

from experiments.report.labels import Summary
from experiments.report.seed_variation import identical_seeds_section, pairing_section
from experiments.report.statistics_page import statistics_page
from tests.report.conftest import WriteStudy

STUDIES = 200
"""a cell; the page has 10 000"""


def summary_of(directory: Path) -> Summary:
    return json.loads((directory / "summary.json").read_text())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    docs = tmp_path_factory.mktemp("docs")
    return statistics_page({}, STUDIES, docs), docs


def test_equal_sources_give_equal_bytes(page: tuple[str, Path], tmp_path: Path) -> None:
    text, docs = page
    assert statistics_page({}, STUDIES, tmp_path) == text
    figures = sorted(path.name for path in docs.iterdir())
    assert figures == ["statistics-power.png", "statistics-verdicts.png"]
    for name in figures:
        assert (docs / name).read_bytes() == (tmp_path / name).read_bytes()
        assert f"({name})" in text, "every figure is shown"


def test_every_section_begins_with_its_answer_in_numbers_of_its_table(page: tuple[str, Path]) -> None:
    sections = page[0].split("\n## ")[1:]
    assert len(sections) == 10
    for section in sections[:8]:
        title, answer, *rest = section.split("\n\n")
        assert title.endswith("?")
        assert answer.startswith("**")
        assert answer.endswith("**")
        # Shares and factors are written with a decimal point; what is promised (5.0, 80.0) is in no table.
        for value in set(re.findall(r"\d+\.\d+", answer)) - {"5.0", "80.0", "0.05"}:
            assert value in "\n".join(rest), f"{value} of the answer is not in the table of: {title}"


def test_without_a_study_the_page_says_so(page: tuple[str, Path]) -> None:
    assert page[0].count("No study is committed yet") == 2
    assert "nan" not in page[0]


def test_the_variance_that_pairing_removed_is_that_of_the_seeds(write_study: WriteStudy) -> None:
    summary = summary_of(write_study(seeds=6, diverged={"lion": 1}))
    section = "\n".join(pairing_section({"a_study": summary}))
    lion, adamw = (summary["comparisons"][0]["per_seed"][name][1:] for name in ("lion", "adamw"))
    of_difference = statistics.variance(x - y for x, y in zip(lion, adamw, strict=True))
    ratio = (statistics.variance(lion) + statistics.variance(adamw)) / of_difference
    assert f"{ratio:.2f} times smaller in the median of 1 committed comparisons" in section
    row = next(line for line in section.splitlines() if "a_study" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    expected = [f"{statistics.stdev(lion):.3g}", f"{statistics.stdev(adamw):.3g}", f"{of_difference**0.5:.3g}"]
    assert cells[2:] == ["5", *expected, f"{ratio:.2f}", f"{1 / of_difference**0.5:.2f}"]


def test_one_optimizer_is_compared_with_itself_once_however_often_it_is_the_reference(write_study: WriteStudy) -> None:
    summary = summary_of(write_study(optimizers=("lion", "sgd", "adamw"), margin=1000.0))
    section = "\n".join(identical_seeds_section({"a_study": summary}))
    assert section.count("a_study: AdamW") == 1
    assert "| a_study: AdamW | 8 |" in section
    assert section.count("| 0.0 | 100.0 | 0.0 |") == 3, "within so large a margin every split is a tie"
    assert "in 0.0 % of the splits on average over 3 sets of runs" in section


def test_studies_with_too_few_runs_have_no_share(write_study: WriteStudy) -> None:
    three, one = (summary_of(write_study(experiment=f"{seeds}", seeds=seeds)) for seeds in (3, 1))
    assert "No study is committed" in identical_seeds_section({"a_study": three})[1]
    assert "No study is committed" in pairing_section({"a_study": one})[1]
