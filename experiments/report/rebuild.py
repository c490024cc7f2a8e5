"""Write the page and figures of a study, and the page over all studies, from what results/ holds."""

import json
from pathlib import Path

from experiments.harness.errors import DataError
from experiments.report.figures import draw
from experiments.report.labels import Summary
from experiments.report.overview import overview_page
from experiments.report.readme import study_page
from experiments.study.summary import write_summary

SUMMARY_SCHEMA = 1


def read_summary(directory: Path) -> Summary:
    """The summary.json of a study. Raises DataError if it is of another schema than this report can read."""
    summary: Summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if summary["schema"] != SUMMARY_SCHEMA:
        raise DataError(
            f"{directory / 'summary.json'} has schema {summary['schema']}, but this report reads {SUMMARY_SCHEMA}: "
            "make the study's summary again with this version of the suite."
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
    return directories
