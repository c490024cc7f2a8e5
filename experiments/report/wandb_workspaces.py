"""Create W&B workspaces for an experiment's studies: two views per task, of its confirm runs and of its tuning runs.

python -m experiments.report.wandb_workspaces [experiment]

A view is plain data built from the task's config alone (``views``), so a new task needs nothing here. Calling it again
replaces the earlier workspaces.
"""

import argparse
import hashlib
import os
from contextlib import suppress
from typing import Any

from experiments.harness.composition import composed, scale_of
from experiments.harness.config import resolved
from experiments.harness.errors import ConfigError, SuiteError
from experiments.harness.explained import one_sentence
from experiments.harness.source_code import ROOT
from experiments.harness.tracking import STEP, has_key, study_of
from experiments.report.labels import metric_title

EXPERIMENTS = ROOT / "conf" / "experiment"
MAX_RUNS = 1000
"""Runs shown in a chart; a study has some 700. W&B's default of 10 would silently leave out most."""


def task_configs(experiment: str) -> list[dict[str, Any]]:
    """The resolved config of every task that has ``experiment``. Raises ConfigError if none has."""
    tasks = sorted(path.parent.name for path in EXPERIMENTS.glob(f"*/{experiment}.yaml"))
    if not tasks:
        raise ConfigError(f"No task has an experiment {experiment}: there is no conf/experiment/*/{experiment}.yaml.")
    configs = []
    for task in tasks:
        name = f"{task}/{experiment}"
        configs.append(resolved(composed(task, [f"scale={scale_of(name)}", f"experiment={name}"])))
    return configs


def views(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The contents of a task's workspaces as plain data: filters, and sections of panels.

    A panel is a ``line`` over an x axis, a ``bar``, or a ``scatter`` against a hyperparameter, with the metric's name
    in metrics.jsonl. Lines and bars are means per optimizer with a band: one standard deviation over the confirm runs
    of all replicates, or the range from the worst to the best trial of a search.
    """
    study = config["study"]
    group = study_of(config)
    validation = [_line(study["validation_metric"], STEP), _line(study["validation_metric"], "samples")]
    training = [_line("train/loss", STEP), _line("train/loss", "time/train_s"), _line("train/grad_norm", STEP)]
    health = [
        _line(f"optimizer/{name}", STEP)
        for name in ("update_norm", "weight_norm", "zero_update_share", "nonfinite_state")
    ]
    cost = ["time/train_s", "time/optimizer_step_ms", "cost/state_bytes", "cost/peak_bytes"]
    results = [study["primary_metric"], *study["secondary_metrics"]]
    tuning = [
        {"kind": "scatter", "x": f"optimizer.{setting}", "metric": study["validation_metric"]}
        for setting in ("lr", "weight_decay")
    ]
    of_confirm_runs = {
        "Result": [_bar(name) for name in results],
        "Validation": validation,
        "Training": training,
        "Optimizer": health,
        "Cost": [_bar(name) for name in cost],
    }
    of_trials = {"Settings": tuning, "Validation": validation, "Training": training}
    return [
        {
            "name": f"{group}: {name}",
            "project": config["run"]["wandb_project"],
            "filters": {"Group": group, "JobType": phase},
            "band": band,
            "sections": sections,
        }
        for name, phase, band, sections in (
            ("confirmation", "confirm", "stddev", of_confirm_runs),
            ("tuning", "search", "minmax", of_trials),
        )
    ]


def _line(metric: str, x: str) -> dict[str, str]:
    return {"kind": "line", "x": x, "metric": metric}


def _bar(metric: str) -> dict[str, str]:
    return {"kind": "bar", "metric": metric}


def workspace(view: dict[str, Any], entity: str) -> Any:
    """The view as a ``wandb_workspaces.workspaces.Workspace`` of ``entity``, a W&B user or team."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.expr import And, Config, Metric

    from experiments.report.figures import COLORS

    return ws.Workspace(
        entity=entity,
        project=view["project"],
        name=view["name"],
        sections=[
            ws.Section(name=name, panels=[_panel(panel, view["band"]) for panel in panels], is_open=True)
            for name, panels in view["sections"].items()
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=And(*(Metric(name) == value for name, value in view["filters"].items())),
            groupby=[Config("optimizer.name")],
            group_colors=dict[object, object](COLORS.items()),
        ),
    )


def _panel(panel: dict[str, str], band: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    title = metric_title(panel["metric"])
    if panel["kind"] == "scatter":
        return wr.ScatterPlot(
            title=title, x=wr.Config(panel["x"]), y=wr.SummaryMetric(panel["metric"]), log_x=True, regression=False
        )
    grouped: dict[str, Any] = {
        "groupby": wr.Config("optimizer.name"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": band,
        "max_runs_to_show": MAX_RUNS,
    }
    if panel["kind"] == "bar":
        return wr.BarPlot(title=title, metrics=[panel["metric"]], **grouped)
    return wr.LinePlot(title=title, x=panel["x"], y=[panel["metric"]], title_x=panel["x"], **grouped)


def push(view: dict[str, Any], entity: str) -> None:
    """Create the view's workspace, or replace the one that an earlier call made."""
    from wandb_workspaces.workspaces import internal

    made = workspace(view, entity)
    # The name in the address of a workspace; one that W&B makes up would leave a new workspace at every call.
    address = hashlib.sha256(view["name"].encode()).hexdigest()[:11]
    made._internal_name = f"nw-{address}-v"
    with suppress(ValueError):  # there is none yet
        made._internal_id = internal.get_view_dict(entity, view["project"], address)["id"]
    made.save()


def main(experiment: str) -> None:
    """Push the views of every task that has the experiment. Raises SuiteError without an account, or if W&B refuses."""
    configs = task_configs(experiment)
    if not has_key():
        raise SuiteError(
            "There is no W&B account for workspaces: set WANDB_API_KEY, or call wandb login, and try again."
        )
    import wandb

    try:
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
        if entity is None:
            raise SuiteError("The W&B account names no user or team to own the workspaces: set WANDB_ENTITY.")
        for view in [view for config in configs for view in views(config)]:
            push(view, entity)
            print(view["name"])
    except wandb.Error as error:
        raise SuiteError(f"W&B did not take a workspace: {error}") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report.wandb_workspaces", description=__doc__.splitlines()[0]
    )
    parser.add_argument("experiment", nargs="?", default="mini")
    arguments = parser.parse_args()
    with one_sentence():
        main(arguments.experiment)
