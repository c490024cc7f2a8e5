"""The page of a study and the page over all studies."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from experiments.harness.errors import DataError
from experiments.report.overview import headline_table, overview_page
from experiments.report.readme import study_page
from experiments.report.rebuild import write_between_marks, write_report
from experiments.report.rebuild import write_study as write_page

WriteStudy = Callable[..., Path]


def read(directory: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return summary


def overview(*directories: Path) -> str:
    return overview_page({"/".join(directory.parts[-3:]): read(directory) for directory in directories})


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)


def broken_links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text())
    return [target for target in targets if not (page.parent / unquote(target)).is_file()]


def test_the_verdict_comes_first_and_everything_else_follows(write_study: WriteStudy) -> None:
    page = study_page(read(write_study()), [])
    assert page.splitlines()[0] == "# Lion against AdamW: image classification, scale mini, experiment mini"
    assert page.splitlines()[2].startswith("**AdamW beats Lion by ")
    assert headings(page)[1:] == [
        "Result: Lion - AdamW",
        "Other metrics",
        "Settings",
        "Tuning trials",
        "Speed-up: Lion - AdamW",
        "Cost",
        "What was run",
    ]
    other_metrics = page[page.index("## Other metrics") : page.index("## Settings")]
    assert "test loss" in other_metrics
    assert "top-1" not in other_metrics
    assert "exact sign-flip p = 0.008" in page, "2 of the 2^8 flips: all differences have one sign"
    assert "bootstrap" not in page, "there are fewer than 10 pairs"
    for fact in ("at the settings below", "an imagined processor", "torch 2.15.0", "abcdef0123456789", "f" * 16):
        assert fact in page
    assert "make reproduce-image-classification SCALE=mini" in page


def test_the_bootstrap_interval_is_shown_from_ten_pairs(write_study: WriteStudy) -> None:
    assert "95 % bootstrap interval" in study_page(read(write_study(seeds=10)), [])


def test_three_seeds_are_called_a_direction(write_study: WriteStudy) -> None:
    page = study_page(read(write_study(tuned=False, seeds=3)), [])
    assert "read the direction only" in page
    assert "Nothing was tuned" in page
    assert "Tuning trials" not in headings(page)


def test_settings_that_were_tuned_on_other_data_are_labelled_so(write_study: WriteStudy) -> None:
    summary = read(write_study(tuned=False)) | {"settings_from": "language_modeling/mini"}
    assert "transferred, those that won in language_modeling/mini" in study_page(summary, [])


def test_what_was_run_admits_uncommitted_changes_and_mixed_hardware(write_study: WriteStudy) -> None:
    summary = read(write_study())
    summary["environment"] |= {"git_dirty": True, "kinds_of_hardware": 2}
    page = study_page(summary, [])
    assert "with uncommitted changes" in page
    assert "the first of 2 kinds" in page
    summary["environment"] |= {"git_sha": None, "git_dirty": False, "kinds_of_hardware": 1}
    page = study_page(summary, [])
    assert "of no commit" in page
    assert "uncommitted" not in page
    assert "kinds" not in page


@pytest.mark.parametrize(
    ("arguments", "first_words"),
    [
        ({"seeds": 1}, "**No verdict: one paired seed"),
        ({"seeds": 0}, "**No verdict: this study only tuned.**"),
        ({"diverged": {"lion": 8}}, "**AdamW beats Lion, whose training diverged"),
        ({"diverged": {"lion": 8, "adamw": 8}}, "**Undecided, because training diverged"),
        ({"diverged": {"lion": 1}}, "**Undecided, because training diverged"),
    ],
)
def test_studies_with_holes_still_have_a_page(
    write_study: WriteStudy, arguments: dict[str, Any], first_words: str
) -> None:
    page = study_page(read(write_study(**arguments)), [])
    assert page.splitlines()[2].startswith(first_words)
    assert not re.search(r"\b(None|nan)\b", page)


def test_every_contestant_is_compared_on_one_page(write_study: WriteStudy) -> None:
    page = study_page(read(write_study(optimizers=("lion", "adamw", "sgd"))), [])
    assert {"Result: Lion - AdamW", "Result: SGD - AdamW"} <= set(headings(page))
    assert "Lion against AdamW against SGD" in page


def test_holm_is_over_the_tasks_default_studies_of_a_scale(write_study: WriteStudy) -> None:
    directories = [
        write_study("diffusion", gain=1.0),
        write_study("lit", gain=0.9, seeds=6),
        write_study("image_classification", "mini", "mini-model.width=64", gain=0.8),
        write_study("image_classification", "gpu", "gpu", gain=1.0),
    ]
    page = overview(*directories)
    p = {directory.parts[-3:]: read(directory)["comparisons"][0]["difference"]["p"] for directory in directories}
    small, large = sorted((p["diffusion", "mini", "mini"], p["lit", "mini", "mini"]))
    assert p["diffusion", "mini", "mini"] == small
    expected = {
        "diffusion/mini/mini": 2 * small,
        "lit/mini/mini": max(2 * small, large),
        "image_classification/mini/mini-model.width=64": None,
        "image_classification/gpu/gpu": p["image_classification", "gpu", "gpu"],
    }
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| [")]
    shown = {re.findall(r"\[(.*)\]", row[0])[0]: row[8] for row in rows}
    assert shown == {
        folder: "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" for folder, p in expected.items()
    }


def test_a_diverged_or_missing_comparison_counts_in_holm_as_p_1(write_study: WriteStudy) -> None:
    alone = write_study("lit", gain=1.0, seeds=6)
    p = read(alone)["comparisons"][0]["difference"]["p"]
    others = [write_study("diffusion", diverged={"lion": 1}), write_study("finetuning", seeds=1)]
    row = next(line for line in overview(alone, *others).splitlines() if line.startswith("| [lit"))
    assert row.split(" | ")[8] == f"{3 * p:.3f}"


def test_the_overview_explains_every_verdict_to_a_stranger(write_study: WriteStudy) -> None:
    page = overview(write_study(), write_study("lit", "smoke", "smoke"))
    assert page.index("**tie**") < page.index("**undecided**") < page.index("## mini")
    assert page.index("## mini") < page.index("## smoke: checks that the code runs; the numbers mean nothing")
    assert "There is no study yet" in overview()


def test_rebuilding_everything_gives_the_same_bytes_and_no_broken_link(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(seeds=2)
    write_study("lit", "mini", "mini-optimizer.betas=[0.9,0.95]", seeds=2, tuned=False)
    results = tmp_path / "results"
    assert len(write_report(results)) == 2
    made = {path: path.read_bytes() for path in results.rglob("*") if path.suffix in (".md", ".png")}
    assert len(made) == 1 + 2 + 3 + 2
    write_report(results)
    assert {path: path.read_bytes() for path in made} == made
    assert [broken_links(path) for path in made if path.suffix == ".md"] == [[], [], []]


def test_a_summary_of_another_schema_is_refused(write_study: WriteStudy) -> None:
    directory = write_study(seeds=2)
    (directory / "summary.json").write_text(json.dumps(read(directory) | {"schema": 2}))
    with pytest.raises(DataError, match=r"summary.json has schema 2"):
        write_page(directory)


def test_the_command_names_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.report", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "There is no folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_rebuilds_a_results_folder(write_study: WriteStudy, tmp_path: Path) -> None:
    directory = write_study(seeds=2)
    subprocess.run([sys.executable, "-m", "experiments.report", str(tmp_path / "results")], check=True)
    assert (directory / "README.md").read_text().startswith("# Lion against AdamW")
    assert (tmp_path / "results" / "README.md").is_file()


def test_the_front_pages_table_is_replaced_and_the_rest_of_the_page_stays(
    tmp_path: Path, write_study: WriteStudy
) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results: made by `make report` -->\nold\n<!-- end of results -->\nafter\n")
    summary = read(write_study()) | {"scale": "mini"}
    folder = "image_classification/mini/mini"
    for _ in range(2):
        write_between_marks(page, headline_table({folder: summary}))
    text = page.read_text()
    assert text.startswith("before\n<!-- results")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in text
    assert text.count(f"](results/{folder}/README.md)") == 1
    assert headline_table({"a/b/ablation": summary}).count("\n") == 1, "other studies do not stand on the front page"
