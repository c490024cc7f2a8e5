"""The sections of a published study's page: differences by replicate, its searches, the report's result table."""

from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from experiments.report.dashboard.charts import Chart, ease_of_tuning, paired_differences, settings_scatter
from experiments.report.dashboard.records import replicate_place
from experiments.report.dashboard.run_sections import shown_value
from experiments.report.labels import (
    Summary,
    dimension_label,
    metric_label,
    metric_title,
    optimizer_name,
    pair_name,
    result_cells,
    selected,
)
from experiments.report.tables import claims_table, comparisons_of, replicate_cells, result_table, selection_note
from experiments.study.replicates import Replicate
from experiments.study.trials import chosen, trials_of

# The report's Markdown contains neither HTML nor links: whatever looks like one is part of a name.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def pair_sections(summary: Summary, replicates: Sequence[Replicate]) -> list[dict[str, Any]]:
    """Each optimizer against the reference: a chart of the differences in each metric with an interval, the deciding
    metric first, and a table row for each replicate.
    """
    sections = []
    for name, rows in comparisons_of(summary).items():
        places = {each.number: replicate_place(name, each.number) for each in replicates}
        sections.append(
            {
                "pair": pair_name(rows[0]),
                "charts": {
                    f"differences-{summary['comparisons'].index(row)}": (
                        f"{metric_label(row['metric'])} ({row['better']} is better){_of_selection(row)}",
                        paired_differences(summary, row, places),
                    )
                    for row in rows
                    if row["difference"]
                },
                "table": _replicates_table(summary, rows[0], replicates, places),
            }
        )
    return sections


def _of_selection(row: dict[str, Any]) -> str:
    of = selected(row)
    return f", in {of} replicates: a selection, as a run diverged in the others" if of else ""


def _replicates_table(
    summary: Summary, row: dict[str, Any], replicates: Sequence[Replicate], places: dict[int, str]
) -> dict[str, Any]:
    """The deciding metric and the winners' hyperparameters, by replicate."""
    sides, metric = (row["a"], row["b"]), summary["validation_metric"]
    settings = {each.number: {side: _winner(each, side, metric) for side in sides} for each in replicates}
    keys = {side: _varying([of[side] for of in settings.values()]) for side in sides}
    *_, difference, within = result_cells(row)
    table_rows = [
        {
            "place": places[replicate],
            "cells": [
                f"{replicate}" if replicate in summary["replicates"] else f"{replicate} (reproduction)",
                *cells,
                *(shown_value(settings[replicate][side].get(key)) for side in sides for key in keys[side]),
            ],
        }
        for replicate, cells in replicate_cells(summary, row).items()
    ]
    return {
        "metric": metric_title(row["metric"]),
        "head": [
            "replicate",
            *map(optimizer_name, sides),
            pair_name(row),
            *(f"{optimizer_name(side)}: {key}" for side in sides for key in keys[side]),
        ],
        "rows": table_rows,
        "mean_of": f"mean{_of_selection(row)}",
        "mean": difference if row["difference"] else None,
        "ci95": within,
    }


def _varying(winners: Sequence[dict[str, Any]]) -> list[str]:
    """The learning rate, and every other hyperparameter that differs between replicates."""
    keys = dict.fromkeys(key for each in winners for key in each)
    return [key for key in keys if key == "lr" or len({repr(each.get(key)) for each in winners}) > 1]


def _winner(replicate: Replicate, name: str, metric: str) -> dict[str, Any]:
    """The settings of the confirm runs; empty if they are not those of a winner, because all trials diverged."""
    trials, runs = trials_of(replicate, name), replicate.of(name, "confirm")
    if trials and all(trial.last(metric) is None for trial in trials):
        return {}
    return chosen(runs[0]) if runs else {}


def search_charts(summary: Summary, replicates: Sequence[Replicate]) -> dict[str, Chart]:
    """Charts by caption: the best value so far, and one for each dimension of each search space; empty without a
    search.
    """
    if not summary["stages"]:
        return {}
    metric = summary["validation_metric"]
    charts = {f"best {metric_title(metric)} so far": ease_of_tuning(summary)}
    counting = [each for each in replicates if each.number in summary["replicates"]]
    for name, space in summary["spaces"].items():
        for column, dimension in enumerate(space):
            caption = f"{optimizer_name(name)}: {metric_title(metric)} against {dimension_label(dimension)}"
            charts[caption] = settings_scatter(summary, name, column, counting)
    return charts


def result_tables(summary: Summary) -> list[Markup]:
    """The report's table of all metrics of each pair, and the paper's claims about them, as HTML."""
    texts = [
        text
        for rows in comparisons_of(summary).values()
        for text in (result_table(summary, rows), selection_note(rows), claims_table(rows))
    ]
    # markdown-it escapes all text and passes no HTML through.
    return [Markup(_markdown.render(text)) for text in texts if text]
