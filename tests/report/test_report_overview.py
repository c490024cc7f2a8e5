"""The pages over all studies: Holm's correction, the tally of verdicts, the tables."""

import re
from urllib.parse import unquote

from experiments.report.labels import deciding, too_small
from experiments.report.overview import front_page, overview_page
from experiments.report.rebuild import read_summary
from tests.report.conftest import WriteStudy, by_folder
from tests.synthetic_study import PAPER


def test_holm_correction_covers_the_default_studies_of_all_scales(write_study: WriteStudy) -> None:
    directories = [
        write_study("diffusion", gain=0.010),
        write_study("lit", gain=0.015),
        write_study("image_classification", "mini", "mini-model.width=64", gain=0.01),
        write_study("lit", "gpu", "gpu", gain=0.1),
    ]
    page = overview_page(by_folder(*directories))
    p = {
        directory.parts[-3:]: read_summary(directory)["comparisons"][0]["difference"]["p"] for directory in directories
    }
    large, small, least = p["diffusion", "mini", "mini"], p["lit", "mini", "mini"], p["lit", "gpu", "gpu"]
    assert least < small < large
    expected = {
        "diffusion/mini/mini": max(2 * small, large),
        "lit/gpu/gpu": 3 * least,
        "lit/mini/mini": 2 * small,
        "image_classification/mini/mini-model.width=64": None,
    }
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| [")]
    shown = {unquote(re.findall(r"\((.*)/README.md\)", row[0])[0]): row[-1] for row in rows}
    assert shown == {
        folder: "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" for folder, p in expected.items()
    }


def test_diverged_and_missing_comparisons_count_as_p_1_in_holm(write_study: WriteStudy) -> None:
    alone = write_study("lit", gain=0.015)
    p = read_summary(alone)["comparisons"][0]["difference"]["p"]
    others = [write_study("diffusion", diverged=[(0, "lion")]), write_study("finetuning", numbers=[0])]
    page = overview_page(by_folder(alone, *others))
    row = next(line for line in page.splitlines() if line.startswith("| [LiT"))
    assert row.strip("| ").split(" | ")[-1] == f"{3 * p:.3f}"


def test_an_exploratory_comparison_counts_as_p_1_in_holm(write_study: WriteStudy) -> None:
    whole, part = write_study("lit", gain=0.015), write_study("diffusion", gain=0.1, numbers=range(5))
    p = read_summary(whole)["comparisons"][0]["difference"]["p"]
    rows = [line for line in front_page(by_folder(whole, part)).splitlines() if line.startswith("| [")]
    shown = {row[3 : row.index(",")]: row.strip("| ").split(" | ")[-1] for row in rows}
    assert shown == {"LiT": f"{2 * p:.3f}", "diffusion": "1.000"}


def test_the_tally_says_how_many_winners_holms_correction_leaves(write_study: WriteStudy) -> None:
    clear = front_page(by_folder(write_study(gain=0.1), write_study("lit", gain=0.1)))
    assert "Winners whose p is at most 0.05 after correction for the number of studies: 2 of 2." in clear
    several = by_folder(write_study(gain=0.034, spread=0.02), write_study("lit"), write_study("diffusion"))
    rows = [row for summary in several.values() for row in summary["comparisons"] if row["primary"]]
    p = min(row["difference"]["p"] for row in rows)
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
    assert page.count("Regime: ConvNet") == 3
    for paragraph in page.split("\n\n")[3:]:
        assert paragraph.index("Regime: ") < paragraph.index("**"), "the regime stands above the verdict"
    assert "**AdamW (exploratory)**" in page


def test_front_page_rows_state_the_tuning_budget_and_the_papers_numbers(write_study: WriteStudy) -> None:
    tuned = front_page(by_folder(write_study(stages=(4, 3, 2))))
    row = next(line for line in tuned.splitlines() if line.startswith("| [image"))
    assert row.split(" | ")[6:9] == ["9", "6 of 6", "not comparable"]
    published = front_page(by_folder(write_study(scale="paper", experiment="paper", **PAPER)))
    row = next(line for line in published.splitlines() if line.startswith("| [image"))
    assert row.split(" | ")[6] == "none"
    assert row.split(" | ")[8].endswith("Lion 77.44, AdamW 75.48: confirmed")
