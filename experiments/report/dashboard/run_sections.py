"""The sections of a page about its runs: their curves, and the state of each."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from experiments.report.dashboard.charts import OTHER_SYMBOL, SYMBOLS
from experiments.report.dashboard.records import AXES, OpenStudy, ShownRun, columns, curve_metrics, last_metrics
from experiments.report.dashboard.settings import filters, setting_name, settings_of, shown_value, swept_keys
from experiments.report.figures import optimizer_colors
from experiments.report.labels import Summary, in_metric, metric_title, optimizer_name


def run_place(run_id: str) -> str:
    """The id of a run's element on a page."""
    return f"run-{run_id}"


def study_curves(runs: Sequence[ShownRun], places: Mapping[str, str], summary: Summary) -> dict[str, Any]:
    """The curves of a published study, beginning with the metric that its searches optimize. All runs of an optimizer
    are averaged, whatever their hyperparameters. ``places`` has an element id for each run.
    """
    compared = [f"val/{row['metric'].partition('/')[2]}" for row in summary["comparisons"]]
    metrics = curve_metrics(runs, [summary["validation_metric"], *compared, "train/loss"])
    keys = [key for key in swept_keys(runs) if key.startswith("optimizer.")]
    values_by_run = {run.id: {"replicate": run.replicate} | settings_of(run, keys) for run in runs}
    return _curves(runs, places, values_by_run, dict.fromkeys(values_by_run, ""), list(summary["optimizers"]), metrics)


def open_curves(study: OpenStudy) -> dict[str, Any]:
    """The curves of other runs; runs that differ only in their seed are averaged."""
    keys = swept_keys(study.runs)
    values_by_run = {run.id: {"purpose": purpose(run)} | settings_of(run, keys) for run in study.runs}
    shown_elsewhere = {"seed"} if len({purpose(run) for run in study.runs}) > 1 else {"seed", "purpose"}
    kinds = {
        run_id: _told({k: v for k, v in values.items() if k not in shown_elsewhere})
        for run_id, values in values_by_run.items()
    }
    places = {run.id: run_place(run.id) for run in study.runs}
    return _curves(study.runs, places, values_by_run, kinds, study.optimizers, curve_metrics(study.runs))


def _curves(
    runs: Sequence[ShownRun],
    places: Mapping[str, str],
    settings: Mapping[str, Mapping[str, Any]],
    kinds: Mapping[str, str],
    optimizers: Sequence[str],
    metrics: Sequence[str],
) -> dict[str, Any]:
    """The variables of templates/curves.html; ``data`` is what assets/page.js draws."""
    panels = {f"curve-{position}": metric for position, metric in enumerate(metrics)}
    colors = optimizer_colors(optimizers)
    names = list(next(iter(settings.values()), {}))
    chosen = filters({name: [values[name] for values in settings.values()] for name in names})
    ranges = {each["name"] for each in chosen if each["boxes"] is None}
    return {
        "panels": {place: metric_title(metric).replace("_", " ") for place, metric in panels.items()},
        "axes": AXES,
        "optimizers": [{"name": name, "color": colors[name]} for name in optimizers],
        "filters": chosen,
        "data": {
            "axes": AXES,
            "panels": panels,
            "runs": [
                {
                    "place": places[run.id],
                    "label": escape(f"{run.id}: {_told(settings[run.id])}"),
                    "kind": escape(", ".join(filter(None, [_optimizer(run), kinds[run.id]]))),
                    "diverged": run.status["status"] == "diverged",
                    "color": colors[run.config["optimizer"]["name"]],
                    "symbol": SYMBOLS.get(run.config["optimizer"]["name"], OTHER_SYMBOL),
                    "settings": {
                        "optimizer": run.config["optimizer"]["name"],
                        **{
                            name: value if name in ranges else shown_value(value)
                            for name, value in settings[run.id].items()
                        },
                    },
                    "columns": columns(run.rows, panels.values()),
                }
                for run in runs
            ],
        },
    }


def purpose(run: ShownRun) -> str:
    """What a run is for: only reported runs are evaluated on the test split."""
    return "reported" if run.config["test"] else "tuning"


def _optimizer(run: ShownRun) -> str:
    return optimizer_name(run.config["optimizer"]["name"])


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown_value(value)}" for name, value in settings.items() if value is not None)


def runs_table(study: OpenStudy) -> dict[str, Any]:
    """The state and settings of every run of an unfinished study: table head and rows."""
    keys = swept_keys(study.runs)
    last = {run.id: last_metrics(run) for run in study.runs}
    evaluated = dict.fromkeys(name for row in last.values() for name in row if name.startswith(("test/", "val/")))
    # Two metrics may have the same column title.
    shown = list({metric_title(name): name for name in (*sorted(evaluated, reverse=True), "train/loss")}.values())
    rows = [
        {
            "run": run.id,
            "place": run_place(run.id),
            "status": run.status["status"],
            "reason": run.status.get("reason", ""),
            "cells": [
                _optimizer(run),
                purpose(run),
                *map(shown_value, settings_of(run, keys).values()),
                f"{run.step:,} of {run.config['train']['steps']:,}",
                *(in_metric(last[run.id].get(name), name) for name in shown),
                run.written,
            ],
        }
        for run in study.runs
    ]
    head = [
        "run",
        "state",
        "optimizer",
        "purpose",
        *map(setting_name, keys),
        "step",
        *map(metric_title, shown),
        "last row, UTC",
    ]
    return {"head": head, "rows": rows}


def progress(study: OpenStudy) -> dict[str, Any]:
    """A group of runs in one line: how many are in each state, and their overall progress."""
    return {
        "title": study.title,
        "states": study.states,
        "done": sum(run.step for run in study.runs),
        "steps": sum(int(run.config["train"]["steps"]) for run in study.runs),
        "written": max((run.written for run in study.runs), default=""),
    }
