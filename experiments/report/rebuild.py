"""Write the page and figures of a study, and the page over all studies, from what results/ holds."""

import json
from pathlib import Path

from experiments.harness.errors import DataError
from experiments.harness.provenance import ROOT
from experiments.report.figures import draw
from experiments.report.labels import Summary
from experiments.report.overview import headline_table, overview_page
from experiments.report.readme import study_page
from experiments.study.summary import write_summary

SUMMARY_SCHEMA = 1


def read_summary(directory: Path) -> Summary:
    """The summary.json of a study. Raises DataError if it is not what this report can read."""
    summary: Summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if summary["schema"] != SUMMARY_SCHEMA or "looks" not in summary:
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
    for path in results.glob("*/*/*/study.json"):
        write_summary(path.parent)
    directories = sorted(path.parent for path in results.glob("*/*/*/summary.json"))
    studies = {directory.relative_to(results).as_posix(): write_study(directory) for directory in directories}
    (results / "README.md").write_text(overview_page(studies), encoding="utf-8")
    if results.resolve() == ROOT / "results":
        write_between_marks(ROOT / "README.md", headline_table(studies))
    return directories


def write_between_marks(page: Path, table: str) -> None:
    """Replace what stands between the two marks of the page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition("<!-- results: made by `make report` -->\n")
    _, end, after = rest.partition("<!-- end of results -->\n")
    assert begin, f"{page} has no mark for the results"
    assert end, f"{page} has no mark for the end of the results"
    page.write_text(f"{before}{begin}\n{table}\n\n{end}{after}", encoding="utf-8")
