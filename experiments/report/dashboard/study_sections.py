"""What the page of a published study shows of it: differences by replicate, its searches, the report's tables."""

from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from experiments.report.dashboard.charts import Chart, ease_of_tuning, paired_differences, settings_scatter
from experiments.report.dashboard.run_sections import run_place
from experiments.report.labels import (
    Summary,
    dimension_label,
    interval,
    metric_label,
    metric_of,
    metric_title,
    number,
    optimizer_name,
)
from experiments.report.readme import how_decided
from experiments.report.tables import (
    claims_table,
    comparisons_of,
    cost_table,
    environments_table,
    nuisance_table,
    result_table,
    settings_table,
    spaces_table,
    speedup_table,
)
from experiments.study.replicates import Replicate
from experiments.study.trials import trials_of

# The report's Markdown has neither HTML nor links: what looks like one is part of a name.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def comparison_sections(summary: Summary, replicates: Sequence[Replicate]) -> list[dict[str, Any]]:
    """Each metric of two optimizers: a row for each replicate with its confirm runs, and the chart of the differences,
    which is None where there is no interval.
    """
    by_number = {each.number: each for each in replicates}
    sections = []
    for index, row in enumerate(summary["comparisons"]):
        a, b, metric = row["a"], row["b"], row["metric"]
        decimals, difference = metric_of(metric).decimals, row["difference"]
        counted = zip(summary["replicates"], *(row["per_replicate"][side] for side in (a, b)), strict=True)
        values = [*counted, *((new["replicate"], new[a], new[b]) for new in row["reproductions"])]
        rows = [
            {
                "place": f"pair-{index}-{replicate}",
                "replicate": replicate,
                "counts": replicate in summary["replicates"],
                "cells": [
                    {
                        "value": "diverged" if value is None else number(value, decimals),
                        "runs": [run_place(run.run_id) for run in by_number[replicate].of(name, "confirm")],
                    }
                    for name, value in ((a, x), (b, y))
                ],
                "difference": number(None if x is None or y is None else x - y, decimals, "+"),
            }
            for replicate, x, y in values
        ]
        places = {row["replicate"]: row["place"] for row in rows}
        sections.append(
            {
                "place": f"differences-{index}",
                "sides": (optimizer_name(a), optimizer_name(b)),
                "metric": metric_label(metric),
                "better": row["better"],
                "rows": rows,
                "mean": number(difference and difference["mean"], decimals, "+"),
                "ci95": interval(difference and difference["ci95"], decimals),
                "chart": paired_differences(summary, row, places) if difference else None,
            }
        )
    return sections


def search_charts(summary: Summary, replicates: Sequence[Replicate]) -> dict[str, Chart]:
    """By caption: the best so far, and a chart for each dimension of each search space; none without a search."""
    if not summary["stages"]:
        return {}
    metric = summary["validation_metric"]
    charts = {f"best {metric_title(metric)} so far": ease_of_tuning(summary)}
    for name, space in summary["spaces"].items():
        trials = [
            {"replicate": each.number, "trial": run.trial, "unit": run.unit, "value": run.last(metric)}
            for each in replicates
            if each.number in summary["replicates"]
            for run in trials_of(each, name)
        ]
        for column, dimension in enumerate(space):
            caption = f"{optimizer_name(name)}: {metric_title(metric)} against {dimension_label(dimension)}"
            charts[caption] = settings_scatter(summary, name, column, trials)
    return charts


def report_tables(summary: Summary) -> dict[str, list[Markup]]:
    """The report's tables as HTML, by their headings."""
    by_name = comparisons_of(summary).values()
    tables = {
        "Result": [text for rows in by_name for text in (result_table(summary, rows), how_decided(summary, rows[0]))],
        "The paper's claims": [claims_table(rows) for rows in by_name],
        "Search": [spaces_table(summary) if summary["stages"] else settings_table(summary)],
        "Drawn anew in each replicate": [nuisance_table(summary)],
        "Speed-up in steps": [speedup_table(rows) for rows in by_name],
        "Cost": [cost_table(summary)],
        "Computed with": [environments_table(summary)],
    }
    # markdown-it escapes all text, and passes on no HTML.
    return {
        title: [Markup(_markdown.render(text)) for text in texts if text]
        for title, texts in tables.items()
        if any(texts)
    }
