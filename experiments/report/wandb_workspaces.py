"""Create W&B workspaces for an experiment's studies: two views per task, of its confirm runs and of its tuning runs.

python -m experiments.report.wandb_workspaces [experiment]

They are built from the task's config alone, so a new task needs nothing here. Calling it again replaces the earlier
workspaces.
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


def workspace(config: dict[str, Any], phase: str, entity: str) -> Any:
    """The workspace of ``entity``, a W&B user or team, for a task's runs of a ``phase``, confirm or search.

    Lines and bars are means per optimizer with a band: one standard deviation over the confirm runs of all replicates,
    or the range from the worst to the best trial of a search.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.expr import And, Config, Metric

    from experiments.report.figures import COLORS

    study, group, tested = config["study"], study_of(config), phase == "confirm"
    validation = study["validation_metric"]
    grouped: dict[str, Any] = {
        "groupby": wr.Config("optimizer.name"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "stddev" if tested else "minmax",
        "max_runs_to_show": MAX_RUNS,
    }

    def line(metric: str, x: str = STEP) -> Any:
        return wr.LinePlot(title=metric_title(metric), x=x, y=[metric], title_x=x, **grouped)

    def bar(metric: str) -> Any:
        return wr.BarPlot(title=metric_title(metric), metrics=[metric], **grouped)

    def scatter(setting: str) -> Any:
        x, y = wr.Config(f"optimizer.{setting}"), wr.SummaryMetric(validation)
        return wr.ScatterPlot(title=metric_title(validation), x=x, y=y, log_x=True, regression=False)

    sections = {
        "Validation": [line(validation), line(validation, "samples")],
        "Training": [line("train/loss"), line("train/loss", "time/train_s"), line("train/grad_norm")],
    }
    if tested:
        results = [study["primary_metric"], *study["secondary_metrics"]]
        health = ("update_norm", "weight_norm", "zero_update_share", "nonfinite_state")
        cost = ("time/train_s", "time/optimizer_step_ms", "cost/state_bytes", "cost/peak_bytes")
        sections = {"Result": [bar(name) for name in results], **sections}
        sections |= {"Optimizer": [line(f"optimizer/{name}") for name in health], "Cost": [bar(name) for name in cost]}
    else:
        sections = {"Settings": [scatter("lr"), scatter("weight_decay")], **sections}
    return ws.Workspace(
        entity=entity,
        project=config["run"]["wandb_project"],
        name=f"{group}: {'confirmation' if tested else 'tuning'}",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=And(Metric("Group") == group, Metric("JobType") == phase),
            groupby=[Config("optimizer.name")],
            group_colors=dict[object, object](COLORS.items()),
        ),
    )


def push(made: Any) -> None:
    """Create the workspace, or replace the one that an earlier call made."""
    from wandb_workspaces.workspaces import internal

    # The name in the address of a workspace; one that W&B makes up would leave a new workspace at every call.
    address = hashlib.sha256(made.name.encode()).hexdigest()[:11]
    made._internal_name = f"nw-{address}-v"
    with suppress(ValueError):  # there is none yet
        made._internal_id = internal.get_view_dict(made.entity, made.project, address)["id"]
    made.save()


def main(experiment: str) -> None:
    """Push both workspaces of every task that has the experiment. Raises SuiteError without an account, or if W&B
    refuses.
    """
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
        for made in [workspace(config, phase, entity) for config in configs for phase in ("confirm", "search")]:
            push(made)
            print(made.name)
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
