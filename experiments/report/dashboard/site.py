"""Write the dashboard's folder: the pages with their style sheet and scripts, so that no network is needed."""

import shutil
from pathlib import Path

from experiments.harness.errors import DataError
from experiments.harness.files import write_aside
from experiments.report.dashboard.pages import GENERATOR, index_page, open_study_page, page_file, study_page
from experiments.report.dashboard.records import open_studies, published_studies

ASSETS = Path(__file__).parent / "assets"


def write_dashboard(results: Path, runs: Path, output: Path) -> Path:
    """Write a page for every study under ``results``, and for every group of other runs under ``runs``, into
    ``output``; returns the index. Pages of an earlier build are deleted.

    Studies at the smoke scale are published under ``runs/results``, and are shown too. Raises DataError if neither
    folder exists.
    """
    from plotly.offline import get_plotlyjs

    if not (results.is_dir() or runs.is_dir()):
        raise DataError(f"There is neither {results} nor {runs}: name the folders with --results and --runs.")
    # By name: of two studies with the same name, the one in ``results`` is shown.
    published = {study.name: study for folder in (runs / "results", results) for study in published_studies(folder)}
    others = open_studies(runs, published.values())

    output.mkdir(parents=True, exist_ok=True)
    for page in output.glob("*.html"):
        if GENERATOR in page.read_text(encoding="utf-8"):
            page.unlink()
    for asset in ASSETS.iterdir():
        shutil.copyfile(asset, output / asset.name)
    write_aside(output / "plotly.min.js", get_plotlyjs())
    for study in published.values():
        write_aside(output / page_file(study.name), study_page(study))
    for group in others:
        write_aside(output / page_file(group.name), open_study_page(group))
    write_aside(output / "index.html", index_page(list(published.values()), others))
    return output / "index.html"
