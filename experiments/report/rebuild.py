"""Write the page and figures of a study, and the overview of all studies, from the records in results/."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.harness.errors import DataError
from experiments.harness.files import write_aside
from experiments.harness.metric import know_metrics_of
from experiments.harness.source_code import ROOT
from experiments.report.figures import draw
from experiments.report.labels import Summary
from experiments.report.overview import front_page, overview_page
from experiments.report.readme import study_page
from experiments.study.replicates import read_replicates
from experiments.study.summary import SUMMARY_SCHEMA, study_folders, write_summary


def read_summary(directory: Path) -> Summary:
    """The summary.json of a study. Raises DataError if this version cannot read it."""
    path = directory / "summary.json"
    try:
        summary: Summary = json.loads(path.read_text(encoding="utf-8"))
        schema = summary["schema"]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): `make report` rebuilds it.") from error
    if schema != SUMMARY_SCHEMA:
        raise DataError(
            f"{path} has schema {schema}, but this report reads {SUMMARY_SCHEMA}: `make report` rebuilds it."
        )
    know_metrics_of(summary["task"])
    return summary


@contextmanager
def skipped_if_damaged(what_happens: str) -> Iterator[None]:
    """Skip a record that cannot be read, and say so, instead of failing for all of them."""
    try:
        yield
    except DataError as fault:
        print(f"{what_happens}: {fault}", flush=True)


def write_study(directory: Path) -> Summary:
    """Write summary.json, README.md and the figures of the study whose study.json and replicates are in ``directory``;
    returns the summary.
    """
    replicates = read_replicates(directory)
    write_summary(directory, replicates)
    summary = read_summary(directory)
    for left in (*directory.glob("*.png"), *directory.glob("*.svg")):  # figures that an earlier version drew
        left.unlink()
    figures = draw(directory, summary, replicates)
    (directory / "README.md").write_text(study_page(summary, figures), encoding="utf-8")
    return summary


def write_report(results: Path) -> list[Path]:
    """Write summary and page of every study under ``results``, and the overview; returns the studies' folders."""
    if not results.is_dir():
        raise DataError(
            f"There is no folder {results}: name the folder that contains <task>/<scale>/<experiment>/study.json."
        )
    written = []
    for directory in study_folders(results, "study.json"):
        with skipped_if_damaged("Left as it is"):
            write_study(directory)
            written.append(directory)
    write_overview(results)
    return written


def write_overview(results: Path) -> None:
    """Write the overview of all studies under ``results``; for this checkout's own results/, also the front page's
    block.
    """
    studies = {}
    for directory in study_folders(results):
        with skipped_if_damaged(f"Left out of {results / 'README.md'}"):
            studies[directory.relative_to(results).as_posix()] = read_summary(directory)
    write_aside(results / "README.md", overview_page(studies))
    if results.resolve() == ROOT / "results":
        write_between_marks(ROOT / "README.md", front_page(studies))


def write_between_marks(page: Path, text: str) -> None:
    """Replace the text between the two marks in the page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition("<!-- results: made by `make report` -->\n")
    _, end, after = rest.partition("<!-- end of results -->\n")
    assert begin, f"{page} has no mark for the results"
    assert end, f"{page} has no mark for the end of the results"
    write_aside(page, f"{before}{begin}\n{text}\n\n{end}{after}")
