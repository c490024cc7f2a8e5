"""Write the page and figures of a study, and the page over all studies, from what results/ holds."""

import json
from pathlib import Path

from experiments.harness.errors import DataError
from experiments.harness.provenance import ROOT
from experiments.harness.record import write_aside
from experiments.report.figures import draw
from experiments.report.labels import Summary
from experiments.report.overview import headline_table, overview_page
from experiments.report.readme import study_page
from experiments.study.summary import study_folders, write_summary

SUMMARY_SCHEMA = 1


def read_summary(directory: Path) -> Summary:
    """The summary.json of a study. Raises DataError if it is not what this report can read."""
    try:
        summary: Summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        known = summary["schema"] == SUMMARY_SCHEMA and "looks" in summary
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{directory / 'summary.json'} is damaged ({error}): make report makes it again.") from error
    if not known:
        raise DataError(
            f"{directory / 'summary.json'} has schema {summary['schema']}, but this report reads {SUMMARY_SCHEMA} with "
            "looks: make the study's summary again with this version of the suite."
        )
    return summary


def write_study(directory: Path) -> Summary:
    """Write README.md and the figures of the study in ``directory``, and return its summary."""
    summary = read_summary(directory)
    figures = draw(directory, summary)
    (directory / "README.md").write_text(study_page(summary, figures), encoding="utf-8")
    return summary


def write_report(results: Path) -> list[Path]:
    """Write summary and page of every study under ``results`` and the page over them; returns the studies' folders."""
    if not results.is_dir():
        raise DataError(
            f"There is no folder {results}: name the one that holds <task>/<scale>/<experiment>/summary.json."
        )
    for path in study_folders(results, "study.json"):
        write_summary(path)
    directories = study_folders(results)
    for directory in directories:
        write_study(directory)
    write_overview(results)
    return directories


def write_overview(results: Path) -> None:
    """Write the page over all studies under ``results``, and the table of the project's front page if it is theirs."""
    studies = {}
    for directory in study_folders(results):
        try:
            studies[directory.relative_to(results).as_posix()] = read_summary(directory)
        except DataError as fault:  # that of one study is no reason to keep the page from the others
            print(f"Left out of {results / 'README.md'}: {fault}", flush=True)
    write_aside(results / "README.md", overview_page(studies))
    if results.resolve() == ROOT / "results":
        write_between_marks(ROOT / "README.md", headline_table(studies))


def write_between_marks(page: Path, table: str) -> None:
    """Replace what stands between the two marks of the page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition("<!-- results: made by `make report` -->\n")
    _, end, after = rest.partition("<!-- end of results -->\n")
    assert begin, f"{page} has no mark for the results"
    assert end, f"{page} has no mark for the end of the results"
    write_aside(page, f"{before}{begin}\n{table}\n\n{end}{after}")
