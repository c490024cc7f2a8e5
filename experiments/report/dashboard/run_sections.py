"""The sections of a page about its runs: their curves, the state of each, and the settings in which they differ, as
columns of their table and filters for their curves.
"""

from collections.abc import Container, Mapping, Sequence
from html import escape
from typing import Any

from experiments.report.dashboard.charts import OTHER_SYMBOL, SYMBOLS
from experiments.report.dashboard.records import AXES, OpenStudy, PublishedStudy, ShownRun, columns, curve_metrics
from experiments.report.figures import optimizer_colors
from experiments.report.labels import in_metric, metric_title, optimizer_name, significant

BESIDE = ("task", "data.fingerprint", "test", "optimizer.name", "optimizer._target_", "optimizer.space")
"""Not settings that anyone sweeps: shown elsewhere, or implied by others."""
ALWAYS = "optimizer.lr"
MOST_BOXES = 8
"""A numeric setting with more values than this is filtered by a range."""


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


def swept_settings(runs: Sequence[ShownRun], prefix: str = "") -> dict[str, dict[str, Any]]:
    """By run id, the values of the learning rate and of every other config key, beginning with ``prefix``, in which the
    runs differ; None where a run lacks the key. An optimizer's own keys come first, without ``optimizer.``, and only if
    runs of the same optimizer differ in them.
    """
    configs = {run.id: _flat(run.config) for run in runs}
    by_optimizer: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_optimizer.setdefault(run.optimizer, []).append(configs[run.id])
    keys = [key for key in dict.fromkeys(key for flat in configs.values() for key in flat) if not _is_beside(key)]
    own = [key for key in keys if key.startswith("optimizer.") and key != ALWAYS]
    swept = [
        ALWAYS,
        *(key for key in own if any(_differ(of_one, key) for of_one in by_optimizer.values())),
        *(key for key in keys if not key.startswith("optimizer.") and _differ(list(configs.values()), key)),
    ]
    named = {key.removeprefix("optimizer."): key for key in swept if key.startswith(prefix)}
    return {run_id: {name: flat.get(key) for name, key in named.items()} for run_id, flat in configs.items()}


def _differ(configs: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({repr(config.get(key)) for config in configs}) > 1


def _is_beside(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in BESIDE)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def shown_value(value: Any) -> str:
    """A value as shown in a table: ``0.003``, ``0.9, 0.99``; empty for None."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown_value, value))
    if isinstance(value, float):
        return significant(value, 4)
    return "" if value is None else str(value)


def filters(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A filter for each setting with several ``values``: a checkbox per value, or a range if there are many numbers.
    Settings with many values that are not numbers get no filter.
    """
    found = []
    for name, all_values in values.items():
        known = [value for value in all_values if value is not None]
        boxes = list(dict.fromkeys(map(shown_value, _sorted(known))))
        if len(known) < len(all_values):
            boxes.append("")
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
        if 1 < len(boxes) <= MOST_BOXES or (len(boxes) > MOST_BOXES and is_number):
            found.append({"name": name, "boxes": boxes if len(boxes) <= MOST_BOXES else None})
    return found


def _sorted(values: Sequence[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # values of several types
        return sorted(values, key=str)
