"""The HTML of the dashboard's pages, from the templates beside, which escape every value."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report.dashboard.records import OpenStudy, PublishedStudy
from experiments.report.dashboard.run_sections import curve_section, progress_table, run_details
from experiments.report.dashboard.study_sections import comparison_sections, report_tables, search_charts
from experiments.report.labels import Summary, metric_title, optimizer_name, task_name
from experiments.report.sentences import ease_sentence, reproduction_sentences, steps_sentence, verdict_sentence

GENERATOR = "lion-reproduction dashboard"
"""Marks the pages that a later build may delete."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.policies["json.dumps_kwargs"] = {"allow_nan": False}
_templates.filters.update(optimizer_name=optimizer_name, metric_title=metric_title)
_templates.globals["generator"] = GENERATOR


def page_file(name: str) -> str:
    """The file of a study's page: ``lit/mini/mini`` -> ``lit--mini--mini.html``."""
    return f"{name.replace('/', '--')}.html"


def index_page(published: Sequence[PublishedStudy], under_way: Sequence[OpenStudy]) -> str:
    """The page over all studies."""
    finished = [
        {
            "page": quote(page_file(study.name)),
            "name": study.name,
            "regime": study.summary["regime"],
            "verdicts": _verdicts(study.summary),
        }
        for study in published
    ]
    groups = [
        {
            "page": quote(page_file(study.name)),
            "title": study.title,
            "states": study.states,
            "table": progress_table(study),
        }
        for study in under_way
    ]
    return _templates.get_template("index.html").render(title="Studies", finished=finished, progress_groups=groups)


def _verdicts(summary: Summary) -> list[str]:
    return [verdict_sentence(summary, row) for row in summary["comparisons"] if row["primary"]]


def _details(summary: Summary) -> list[str]:
    """The sentences that stand below the verdicts."""
    if not summary["declared"]:
        return []
    sentences = []
    for row in summary["comparisons"]:
        if row["primary"]:
            sentences += [steps_sentence(summary, row), *reproduction_sentences(summary, row)]
            sentences.append(ease_sentence(summary, row["a"]))
    return [sentence for sentence in sentences if sentence]


def study_page(study: PublishedStudy) -> str:
    """The page of a published study."""
    summary = study.summary
    curves = curve_section(study.runs, list(summary["optimizers"]))
    comparisons, searches = comparison_sections(summary, study.replicates), search_charts(summary, study.replicates)
    charts = {section["place"]: section["chart"] for section in comparisons if section["chart"]}
    charts |= {f"search-{number}": chart for number, chart in enumerate(searches.values())}
    return _templates.get_template("study.html").render(
        title=f"{' against '.join(map(optimizer_name, summary['optimizers']))}: {task_name(summary['task'])}",
        summary=summary,
        verdicts=_verdicts(summary),
        details=_details(summary),
        curves=curves,
        comparisons=comparisons,
        searches={f"search-{number}": caption for number, caption in enumerate(searches)},
        tables=report_tables(summary),
        runs=run_details(study.runs),
        data=curves["data"] | {"charts": charts},
    )


def open_study_page(study: OpenStudy) -> str:
    """The page of a study under way, or of runs that were started one by one."""
    optimizers = list(dict.fromkeys(run.config["optimizer"]["name"] for run in study.runs.values()))
    curves = curve_section(study.runs.values(), optimizers)
    return _templates.get_template("open_study.html").render(
        title=study.title,
        states=study.states,
        table=progress_table(study),
        curves=curves,
        runs=run_details(study.runs.values()),
        data=curves["data"] | {"charts": {}},
    )
