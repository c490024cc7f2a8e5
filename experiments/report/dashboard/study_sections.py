"""What the page of a published study shows of its summary: differences by seed, tuning trials, the report's tables."""

from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from experiments.report.dashboard.charts import paired_differences, tuning_charts
from experiments.report.dashboard.run_sections import run_place
from experiments.report.labels import Summary, interval, metric_label, metric_of, number, optimizer_name
from experiments.report.readme import how_decided
from experiments.report.tables import cost_table, other_metrics_table, result_table, settings_table, speedup_table

# The report's Markdown has neither HTML nor links: what looks like one is part of a name.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def comparison_sections(summary: Summary) -> list[dict[str, Any]]:
    """Each metric of two optimizers: a row for each seed with its two runs, and the chart of the differences, which is
    None where there is no interval.
    """
    sections = []
    for index, comparison in enumerate(summary["comparisons"]):
        a, b, metric = comparison["a"], comparison["b"], comparison["metric"]
        decimals, difference = metric_of(metric).decimals, comparison["difference"]
        runs = zip(*(summary["optimizers"][side]["runs"]["confirm"] for side in (a, b)), strict=True)
        values = zip(*(comparison["per_seed"][side] for side in (a, b)), strict=True)
        rows = [
            {
                "place": f"pair-{index}-{seed}",
                "seed": seed,
                "cells": [
                    {"run": run_place(run), "value": "diverged" if value is None else number(value, decimals)}
                    for run, value in zip(run_pair, pair, strict=True)
                ],
                "difference": number(None if None in pair else pair[0] - pair[1], decimals, "+"),
            }
            for seed, run_pair, pair in zip(summary["seeds"], runs, values, strict=True)
        ]
        sections.append(
            {
                "place": f"differences-{index}",
                "sides": (optimizer_name(a), optimizer_name(b)),
                "metric": metric_label(metric),
                "better": comparison["better"],
                "rows": rows,
                "mean": number(difference and difference["mean"], decimals, "+"),
                "ci95": interval(difference and difference["ci95"], decimals),
                "chart": paired_differences(summary, comparison, [row["place"] for row in rows])
                if difference
                else None,
            }
        )
    return sections


def trial_rows(summary: Summary) -> dict[str, list[dict[str, Any]]]:
    """Every optimizer's tuning trials by rising learning rate, each with its place and those of its runs."""
    decimals = metric_of(summary["validation_metric"]).decimals
    trials = {}
    for index, (name, optimizer) in enumerate(summary["optimizers"].items()):
        chosen = (optimizer["settings"]["lr"], optimizer["settings"].get("weight_decay"))
        ordered = sorted(optimizer["trials_table"], key=lambda trial: (trial["lr"], trial["weight_decay"] or 0))
        trials[name] = [
            {
                **trial,
                "place": f"trial-{index}-{position}",
                "outcome": "diverged" if trial["value"] is None else number(trial["value"], decimals),
                "chosen": (trial["lr"], trial["weight_decay"]) == chosen,
                "runs": {run_id: run_place(run_id) for run_id in trial["run_ids"]},
            }
            for position, trial in enumerate(ordered)
        ]
    return trials


def tuning_section(summary: Summary) -> dict[str, Any]:
    """The trials, and the charts of them with their captions, both by place."""
    trials = trial_rows(summary)
    charts = {f"tuning-{index}": of for index, of in enumerate(tuning_charts(summary, trials).items())}
    return {
        "trials": trials,
        "captions": {place: caption for place, (caption, _) in charts.items()},
        "charts": {place: chart for place, (_, chart) in charts.items()},
    }


def report_tables(summary: Summary) -> dict[str, list[Markup]]:
    """The report's tables as HTML, by their headings."""
    primary = [comparison for comparison in summary["comparisons"] if comparison["primary"]]
    others: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for comparison in summary["comparisons"]:
        if not comparison["primary"]:
            others.setdefault((comparison["a"], comparison["b"]), []).append(comparison)
    tables = {
        "Result": [text for row in primary for text in (result_table(summary, row), how_decided(summary, row))],
        "Other metrics": [other_metrics_table(rows) for rows in others.values()],
        "Settings": [settings_table(summary)],
        "Speed-up in steps": [speedup_table(row) for row in primary if row["speedup"]],
        "Cost": [cost_table(summary)],
    }
    # markdown-it escapes all text, and passes on no HTML.
    return {title: [Markup(_markdown.render(text)) for text in texts] for title, texts in tables.items() if texts}
