"""Write the dashboard's folder: pages rendered from templates/, which escape every value, with their style sheet and
scripts, so that no network is needed.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.harness.errors import DataError
from experiments.harness.files import write_aside
from experiments.report.dashboard.forest import forest
from experiments.report.dashboard.records import OpenStudy, PublishedStudy, open_studies, published_studies
from experiments.report.dashboard.run_sections import open_curves, runs_table, study_curves
from experiments.report.dashboard.study_sections import pair_sections, result_tables, search_charts
from experiments.report.figures import ON_DARK
from experiments.report.labels import Summary, deciding, optimizer_name, regime_line, task_name
from experiments.report.overview import SCALES
from experiments.report.sentences import ease_sentence, reproduction_sentences, steps_sentence, verdict_sentence

ASSETS = Path(__file__).parent / "assets"
GENERATOR = "lion-reproduction dashboard"
"""Marks the pages that a later build may delete."""


def _themed(color: str) -> str:
    """A CSS colour that is brighter in the dark theme."""
    return f"light-dark({color}, {ON_DARK.get(color, color)})"


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.policies["json.dumps_kwargs"] = {"allow_nan": False}
_templates.filters.update(
    optimizer_name=optimizer_name, regime=regime_line, themed=_themed, page=lambda name: quote(page_file(name))
)
_templates.globals.update(generator=GENERATOR, on_dark=ON_DARK)


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


def page_file(name: str) -> str:
    """The file of a study's page: ``lit/mini/mini`` -> ``lit--mini--mini.html``."""
    return f"{name.replace('/', '--')}.html"


def index_page(published: Sequence[PublishedStudy], unpublished: Sequence[OpenStudy]) -> str:
    """The index of all studies: those with meaningful numbers, unfinished ones, finished sweeps, smoke."""
    order = [*SCALES, *(study.summary["scale"] for study in published)]
    judged = sorted(
        (study for study in published if study.summary["declared"]),
        key=lambda study: order.index(study.summary["scale"]),
    )
    return _templates.get_template("index.html").render(
        title="Studies",
        forest=forest(judged),
        finished=[(study, _verdicts(study.summary)) for study in judged],
        unjudged=[study for study in published if study not in judged],
        under_way=[study for study in unpublished if not study.is_finished],
        sweeps=[study for study in unpublished if study.is_finished],
    )


def _verdicts(summary: Summary) -> list[str]:
    return [verdict_sentence(summary, row) for row in deciding(summary)]


def study_page(study: PublishedStudy) -> str:
    """The page of a published study."""
    summary, replicates, curves = study.summary, study.replicates, study_curves(study)
    details = []
    for row in deciding(summary) if summary["declared"] else []:
        details += [steps_sentence(summary, row), *reproduction_sentences(row), ease_sentence(summary, row["a"])]
    pairs, searches = pair_sections(summary, replicates), search_charts(summary, replicates)
    charts = {place: chart for pair in pairs for place, (_, chart) in pair["charts"].items()}
    charts |= {f"search-{number}": chart for number, chart in enumerate(searches.values())}
    return _templates.get_template("study.html").render(
        title=f"{' against '.join(map(optimizer_name, summary['optimizers']))}: {task_name(summary['task'])}",
        name=study.name,
        summary=summary,
        verdicts=_verdicts(summary),
        details=[sentence for sentence in details if sentence],
        curves=curves,
        pairs=pairs,
        searches={f"search-{number}": caption for number, caption in enumerate(searches)},
        tables=result_tables(summary),
        data=curves["data"] | {"charts": charts},
    )


def open_study_page(study: OpenStudy) -> str:
    """The page of an unfinished study, or of runs that were started individually."""
    curves = open_curves(study)
    return _templates.get_template("open_study.html").render(
        title=study.title,
        study=study,
        table=runs_table(study),
        curves=curves,
        data=curves["data"] | {"charts": {}},
    )
