"""The sections of a page about its runs: their curves, and the state of each."""

from collections.abc import Container, Mapping, Sequence
from html import escape
from typing import Any

from experiments.report.dashboard.charts import OTHER_SYMBOL, SYMBOLS
from experiments.report.dashboard.records import AXES, OpenStudy, PublishedStudy, ShownRun, columns, curve_metrics
from experiments.report.dashboard.settings import filters, shown_value, swept_settings
from experiments.report.figures import optimizer_colors
from experiments.report.labels import in_metric, metric_title, optimizer_name


def study_curves(study: PublishedStudy) -> dict[str, Any]:
    """The curves of a published study, beginning with the metric that its searches optimize. All runs of an optimizer
    are averaged, whatever their hyperparameters.
    """
    summary, runs = study.summary, study.runs
    compared = [f"val/{row['metric'].partition('/')[2]}" for row in summary["comparisons"]]
    metrics = curve_metrics(runs, [summary["validation_metric"], *compared, "train/loss"])
    swept = swept_settings(runs, "optimizer.")
    settings = {run.id: {"replicate": run.replicate} | swept[run.id] for run in runs}
    return _curves(runs, settings, {name for of_run in settings.values() for name in of_run}, metrics)


def open_curves(study: OpenStudy) -> dict[str, Any]:
    """The curves of other runs; runs that differ only in their seed are averaged."""
    swept = swept_settings(study.runs)
    settings = {run.id: {"purpose": purpose(run)} | swept[run.id] for run in study.runs}
    shown_elsewhere = {"seed"} if len(set(map(purpose, study.runs))) > 1 else {"seed", "purpose"}
    return _curves(study.runs, settings, shown_elsewhere, curve_metrics(study.runs))


def _curves(
    runs: Sequence[ShownRun], settings: Mapping[str, Mapping[str, Any]], averaged: Container[str], metrics: list[str]
) -> dict[str, Any]:
    """The variables of templates/curves.html; ``data`` is what assets/page.js draws. The mean of a curve is over runs
    that differ only in the settings ``averaged``.
    """
    panels = {f"curve-{position}": metric for position, metric in enumerate(metrics)}
    colors = optimizer_colors(dict.fromkeys(run.optimizer for run in runs))
    names = list(next(iter(settings.values()), {}))
    chosen = filters({name: [values[name] for values in settings.values()] for name in names})
    ranges = {each["name"] for each in chosen if each["boxes"] is None}
    drawn = []
    for run in runs:
        own = settings[run.id]
        kind = _told({name: value for name, value in own.items() if name not in averaged})
        filtered = {name: value if name in ranges else shown_value(value) for name, value in own.items()}
        drawn.append(
            {
                "place": run.place,
                "label": escape(f"{run.id}: {_told(own)}"),
                "kind": escape(", ".join(filter(None, [optimizer_name(run.optimizer), kind]))),
                "diverged": run.status["status"] == "diverged",
                "color": colors[run.optimizer],
                "symbol": SYMBOLS.get(run.optimizer, OTHER_SYMBOL),
                "settings": {"optimizer": run.optimizer, **filtered},
                "columns": columns(run.rows, metrics),
            }
        )
    return {
        "panels": {place: metric_title(metric).replace("_", " ") for place, metric in panels.items()},
        "axes": AXES,
        "optimizers": [{"name": name, "color": color} for name, color in colors.items()],
        "filters": chosen,
        "data": {"axes": AXES, "panels": panels, "runs": drawn},
    }


def purpose(run: ShownRun) -> str:
    """What a run is for: only reported runs are evaluated on the test split."""
    return "reported" if run.config["test"] else "tuning"


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown_value(value)}" for name, value in settings.items() if value is not None)


def runs_table(study: OpenStudy) -> dict[str, Any]:
    """The state and settings of every run of an unfinished study: table head and rows."""
    swept = swept_settings(study.runs)
    last = {run.id: {name: value for row in run.rows for name, value in row.items()} for run in study.runs}
    evaluated = dict.fromkeys(name for row in last.values() for name in row if name.startswith(("test/", "val/")))
    # Two metrics may have the same column title.
    shown = {metric_title(name): name for name in (*sorted(evaluated, reverse=True), "train/loss")}
    rows = [
        {
            "run": run,
            "cells": [
                optimizer_name(run.optimizer),
                purpose(run),
                *map(shown_value, swept[run.id].values()),
                f"{run.step:,} of {run.config['train']['steps']:,}",
                *(in_metric(last[run.id].get(name), name) for name in shown.values()),
                run.written,
            ],
        }
        for run in study.runs
    ]
    settings = swept[study.runs[0].id]
    head = ["run", "state", "optimizer", "purpose", *settings, "step", *shown, "last row, UTC"]
    return {"head": head, "rows": rows}
