"""What a page shows of runs: their curves, where each stands, and its config and environment."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from experiments.report.dashboard.charts import OTHER_SYMBOL, SYMBOLS
from experiments.report.dashboard.records import AXES, OpenStudy, Run, columns, curve_metrics, last_metrics
from experiments.report.figures import optimizer_colors
from experiments.report.labels import metric_of, metric_title, number, optimizer_name, scientific, three_digits

CURVE_TITLES = {"train/lr": "learning rate", "train/grad_norm": "gradient norm before clipping"}


def run_place(run_id: str) -> str:
    """The id of a run's place on a page."""
    return f"run-{run_id}"


def curve_section(runs: Iterable[Run], optimizers: Sequence[str]) -> dict[str, Any]:
    """What templates/curves.html shows; ``data`` is what assets/page.js draws of it."""
    runs = list(runs)
    metrics = {f"curve-{position}": metric for position, metric in enumerate(curve_metrics(runs))}
    colors = optimizer_colors(optimizers)
    return {
        "panels": {
            place: CURVE_TITLES.get(metric, metric_title(metric).replace("_", " ")) for place, metric in metrics.items()
        },
        "axes": AXES,
        "optimizers": [{"name": name, "color": colors[name]} for name in optimizers],
        "seeds": _seeds(runs),
        "data": {
            "axes": AXES,
            "panels": metrics,
            "runs": [
                {
                    "place": run_place(run.id),
                    "optimizer": run.config["optimizer"]["name"],
                    "seed": run.config["seed"],
                    "tuning": not run.config["test"],
                    "label": escape(_label(run)),
                    "color": colors[run.config["optimizer"]["name"]],
                    "symbol": SYMBOLS.get(run.config["optimizer"]["name"], OTHER_SYMBOL),
                    "columns": columns(run.rows, metrics.values()),
                }
                for run in runs
            ],
        },
    }


def _seeds(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Reporting seeds before tuning seeds. Runs of the latter would crowd the curves, so they are shown on demand, or
    where there are no others.
    """
    reporting = {run.config["seed"] for run in runs if run.config["test"]}
    tuning = {run.config["seed"] for run in runs} - reporting
    return [{"seed": seed, "tuning": False, "shown": True} for seed in sorted(reporting)] + [
        {"seed": seed, "tuning": True, "shown": not reporting} for seed in sorted(tuning)
    ]


def _label(run: Run) -> str:
    optimizer = run.config["optimizer"]
    settings = f"lr {scientific(optimizer['lr'])}, weight decay {three_digits(optimizer.get('weight_decay'))}"
    return f"{optimizer_name(optimizer['name'])}, seed {run.config['seed']}, {settings}"


def run_details(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """What templates/runs.html shows: everything that a run's record says about it."""
    return [
        {
            "place": run_place(run.id),
            "id": run.id,
            "status": run.status["status"],
            "reason": run.status.get("reason"),
            "purpose": purpose(run),
            "texts": {
                "config": _yaml(run.config),
                "environment": _yaml(run.environment),
                "last metrics": _yaml(last_metrics(run)),
            },
        }
        for run in runs
    ]


def purpose(run: Run) -> str:
    """What a run is for; only runs that are reported are evaluated on the test split."""
    return "reported" if run.config["test"] else "tuning"


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=True, allow_unicode=True)


def progress_table(study: OpenStudy) -> dict[str, Any]:
    """Where every run of a study under way stands: head and rows."""
    last = {run_id: last_metrics(run) for run_id, run in study.runs.items()}
    evaluated = sorted({name for metrics in last.values() for name in metrics if name.startswith(("val/", "test/"))})
    shown = ["train/loss", *evaluated]
    rows = [
        {
            "run": run_id,
            "place": run_place(run_id),
            "status": run.status["status"],
            "cells": [
                purpose(run),
                f"{last[run_id].get('step', 0):,} of {run.config['train']['steps']:,}",
                *(number(last[run_id].get(name), metric_of(name).decimals) for name in shown),
                study.written[run_id],
            ],
        }
        for run_id, run in study.runs.items()
    ]
    return {"head": ["run", "state", "purpose", "step", *map(metric_title, shown), "last row, UTC"], "rows": rows}
