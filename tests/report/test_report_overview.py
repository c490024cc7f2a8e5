"""The pages over all studies: Holm's correction, the tally of verdicts, the tables."""

import re
from typing import Any
from urllib.parse import unquote

import pytest

from experiments.report.labels import deciding, too_small
from experiments.report.overview import front_page, overview_page
from experiments.report.rebuild import read_summary
from tests.report.conftest import WriteStudy, by_folder
from tests.synthetic_study import PAPER


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of each study's row in the table of results, by its folder."""
    tables = [table for table in page.split("\n\n") if table.startswith("| task |")]
    lines = [line for table in tables for line in table.splitlines()[2:]]
    rows = [line.strip("| ").split(" | ") for line in lines]
    return {unquote(re.findall(r"\((?:results/)?(.*)/README.md\)", row[0])[0]): row for row in rows}


def test_holm_correction_covers_the_default_studies_of_all_scales(write_study: WriteStudy) -> None:
    directories = [
        write_study("diffusion", gain=0.010),
        write_study("lit", gain=0.015),
        write_study("image_classification", "mini", "mini-model.width=64", gain=0.01),
        write_study("lit", "gpu", "gpu", gain=0.1),
    ]
    page = overview_page(by_folder(*directories))
    large, small, _, least = (read_summary(each)["comparisons"][0]["difference"]["p"] for each in directories)
    assert least < small < large
    expected = {
        "diffusion/mini/mini": max(2 * small, large),
        "lit/gpu/gpu": 3 * least,
        "lit/mini/mini": 2 * small,
        "image_classification/mini/mini-model.width=64": None,
    }
    assert {folder: row[-1] for folder, row in rows_of(page).items()} == {
        folder: "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" for folder, p in expected.items()
    }


@pytest.mark.parametrize("other", [{"diverged": [(0, "lion")]}, {"numbers": [0]}, {"gain": 0.1, "numbers": range(5)}])
def test_a_diverged_missing_or_exploratory_comparison_counts_as_p_1_in_holm(
    write_study: WriteStudy, other: dict[str, Any]
) -> None:
    alone = write_study("lit", gain=0.015)
    p = read_summary(alone)["comparisons"][0]["difference"]["p"]
    for page in (overview_page, front_page):
        rows = rows_of(page(by_folder(alone, write_study("diffusion", **other))))
        assert [row[-1] for row in rows.values()] == [f"{2 * p:.3f}", "1.000"]


def test_the_tally_says_how_many_winners_holms_correction_leaves(write_study: WriteStudy) -> None:
    clear = front_page(by_folder(write_study(gain=0.1), write_study("lit", gain=0.1)))
    assert "Winners whose p is at most 0.05 after correction for the number of studies: 2 of 2." in clear
    several = by_folder(write_study(gain=0.034, spread=0.02), write_study("lit"), write_study("diffusion"))
    p = min(row["difference"]["p"] for summary in several.values() for row in deciding(summary))
    assert p <= 0.05 < 3 * p
    assert "for the number of studies: 0 of 1." in front_page(several)
    alone = front_page(by_folder(write_study(gain=0.1)))
    assert "after correction" not in alone.split("\n\n")[0]


def test_the_tally_says_how_many_wins_may_be_too_small_to_matter(write_study: WriteStudy) -> None:
    studies = by_folder(write_study(gain=0.1), write_study("lit", gain=0.02, margin=0.021))
    lead = front_page(studies).split("\n\n")[0]
    said = [sentence for row in map(deciding, studies.values()) for sentence in map(too_small, row)]
    assert said == ["", "is probably"]
    assert "The difference is probably too small to matter in 1 of 2 wins." in lead
    assert "too small" not in front_page(by_folder(write_study(gain=0.1))).split("\n\n")[0]
    part = by_folder(write_study("finetuning", gain=0.02, margin=0.021, numbers=range(5)), write_study(gain=0.1))
    lead = front_page(part).split("\n\n")[0]
    assert lead.index("Exploratory") < lead.index("too small to matter in 1 of 1 wins.")


def test_the_tally_counts_reproductions(write_study: WriteStudy) -> None:
    studies = by_folder(write_study(numbers=range(8), diverged=[(7, "lion")]), write_study("lit", numbers=range(7)))
    rows = [each for summary in studies.values() for row in deciding(summary) for each in row["reproductions"]]
    inside = sum(bool(each["inside"]) for each in rows)
    said = f"Of 3 comparisons in later replicates, made to check these results, {inside} are consistent with them, "
    said += "and in 1 a confirm"
    assert said in front_page(studies)
    assert "in later replicates" not in front_page(by_folder(write_study("diffusion")))


def test_the_overview_explains_every_kind_of_verdict(write_study: WriteStudy) -> None:
    page = overview_page(by_folder(write_study(), write_study("lit", "smoke", "smoke", declared=0)))
    assert page.index("**tie**") < page.index("**undecided**") < page.index("## mini")
    assert page.index("## mini") < page.index("## smoke: checks that the code runs; the numbers mean nothing")
    assert "**no verdict: smoke**" in page
    assert "There is no study yet" in overview_page({})


def test_the_front_page_counts_verdicts_and_lists_unmeasured_tasks(write_study: WriteStudy) -> None:
    assert front_page({}).startswith("**Nothing has been shown here yet: no study is committed.**")
    studies = by_folder(
        write_study(gain=0.1),
        write_study("lit", gain=-0.1, numbers=range(5)),
        write_study("diffusion", numbers=range(2)),
        write_study("finetuning", "mini", "ablation", gain=0.1),
        write_study("finetuning", "smoke", "smoke", declared=0),
    )
    page = front_page(studies)
    lead = page.split("\n\n")[0]
    assert "With all declared replicates: a win for Lion in 1 of 1 comparisons." in lead
    assert "not those declared: a win for AdamW in 1, no verdict in 1 of 2 comparisons." in lead
    assert "Not measured yet: fine-tuning, language modeling." in lead
    assert "None of these studies uses the paper's models" in lead
    assert "ablation" not in page
    assert "smoke" not in page
    regimes = page.index("| regime | model |")
    assert page.count("| ConvNet, 0.24 M parameters |", regimes) == 3
    verdicts = [page.index(f"{folder}/README.md): ") for folder in list(studies)[:3]]
    assert verdicts == sorted(verdicts)
    assert regimes < verdicts[0]
    assert "**AdamW (exploratory)**" in page


def test_front_page_rows_state_the_tuning_budget_and_the_papers_numbers(write_study: WriteStudy) -> None:
    tuned = write_study(stages=(4, 3, 2))
    published = write_study(scale="paper", experiment="paper", **PAPER)
    ours, papers = rows_of(front_page(by_folder(tuned, published))).values()
    assert ours[7:10] == ["9", "6 of 6", "not comparable"]
    assert papers[7] == "none"
    assert papers[9].endswith("Lion 77.44, AdamW 75.48: confirmed")
