"""The workspaces that would be sent to W&B, checked against the rows of runs; no account is used."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from wandb_workspaces.workspaces import interface, internal

from experiments.harness.config import resolved
from experiments.harness.errors import SuiteError
from experiments.harness.record import read_metrics
from experiments.harness.tracking import STEP
from experiments.report import wandb_workspaces
from experiments.report.wandb_workspaces import EXPERIMENTS, task_configs, workspace
from tests.conftest import MakeConfig, executed

SMOKE_TASKS = sorted(path.parent.name for path in EXPERIMENTS.glob("*/smoke.yaml"))


def spec(config: dict[str, Any], phase: str) -> dict[str, Any]:
    """What would be uploaded."""
    model = workspace(config, phase, "somebody")._to_model()
    section: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))["section"]
    return section


def panels(section: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [
        panel["config"]
        for part in section["panelBankConfig"]["sections"]
        for panel in part["panels"]
        if panel["viewType"] == kind
    ]


def value_at(config: dict[str, Any], key: str) -> Any:
    """W&B's path of a config key, as optimizer.value.lr, in a run's config."""
    group, value, name = key.split(".")
    assert value == "value"
    return config[group][name]


def test_workspace_panels_use_only_logged_metrics_and_axes(make_config: MakeConfig) -> None:
    for phase, tested in (("confirm", True), ("search", False)):
        cfg = make_config(f"test={str(tested).lower()}")
        rows = [{STEP: row["step"], **row} for row in read_metrics(executed(cfg))]
        section = spec(resolved(make_config()), phase)
        lines, bars, scatters = (
            panels(section, kind) for kind in ("Run History Line Plot", "Bar Chart", "Scatter Plot")
        )
        assert lines
        assert bool(bars) is tested
        assert bool(scatters) is not tested
        for line in lines:  # W&B plots only rows that contain both
            assert any(line["xAxis"] in row and line["metrics"][0] in row for row in rows), line
        for bar in bars:
            assert any(bar["metrics"][0] in row for row in rows), bar
        for scatter in scatters:
            assert any(scatter["yAxis"].removeprefix("summary:") in row for row in rows), scatter
            assert value_at(resolved(cfg), scatter["xAxis"].removeprefix("config:")) > 0
        for panel in lines + bars:
            assert value_at(resolved(cfg), panel["groupBy"]) == "lion"
            assert (panel["groupAgg"], panel["groupArea"]) == ("mean", "stddev" if tested else "minmax")


@pytest.mark.parametrize("task", SMOKE_TASKS)
def test_workspaces_show_the_metrics_declared_by_each_study(task: str) -> None:
    (config,) = [config for config in task_configs("smoke") if config["task"] == task]
    confirmation, tuning = (spec(config, phase) for phase in ("confirm", "search"))
    study = config["study"]
    shown = {name for bar in panels(confirmation, "Bar Chart") for name in bar["metrics"]}
    assert {study["primary_metric"], *study["secondary_metrics"]} <= shown
    for section in (confirmation, tuning):
        assert [study["validation_metric"]] in [line["metrics"] for line in panels(section, "Run History Line Plot")]


def test_a_workspace_selects_all_runs_of_one_study_and_job_type(make_config: MakeConfig) -> None:
    for job_type in ("confirm", "search"):
        section = spec(resolved(make_config()), job_type)
        (run_set,) = section["runSets"]
        assert [
            (condition["key"]["name"], condition["op"], condition["value"])
            for condition in run_set["filters"]["filters"]
        ] == [("group", "=", "image_classification/smoke/smoke"), ("jobType", "=", job_type)]
        assert run_set["grouping"] == [{"section": "config", "name": "optimizer.value.name"}]
        assert section["settings"]["xAxis"] == STEP
        assert section["settings"]["maxRuns"] >= 700, "10 is W&B's own choice, fewer than a study's runs"


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[internal.View]:
    """What is sent to W&B; a view exists there after it has been pushed."""
    sent: list[internal.View] = []

    def upsert(view: internal.View) -> dict[str, Any]:
        sent.append(view.model_copy())
        return {"upsertView": {"view": {"name": view.name, "id": f"id of {view.name}"}}}

    def known(entity: str, project: str, address: str) -> dict[str, Any]:
        for view in sent:
            if (view.entity, view.project, view.name) == (entity, project, f"nw-{address}-v"):
                return {"id": f"id of {view.name}"}
        raise ValueError("not found")

    monkeypatch.setattr(internal, "upsert_view2", upsert)
    monkeypatch.setattr(internal, "get_view_dict", known)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://localhost")
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="somebody"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    return sent


def test_creating_workspaces_again_replaces_them(pushed: list[internal.View]) -> None:
    wandb_workspaces.main("smoke")
    wandb_workspaces.main("smoke")
    first, second = pushed[: len(pushed) // 2], pushed[len(pushed) // 2 :]
    assert len(first) == 2 * len(SMOKE_TASKS)
    assert len({view.name for view in first}) == len(first)
    assert [view.id for view in first] == [""] * len(first)
    assert [(view.id, view.name) for view in second] == [(f"id of {view.name}", view.name) for view in first]
    assert {(view.entity, view.project) for view in pushed} == {("somebody", "lion-reproduction")}


def test_a_workspace_rejected_by_wandb_is_reported_in_one_sentence(
    pushed: list[internal.View], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(view: internal.View) -> None:
        raise wandb.errors.CommError("permission denied")

    monkeypatch.setattr(internal, "upsert_view2", refuse)
    with pytest.raises(SuiteError, match="W&B did not take a workspace: permission denied"):
        wandb_workspaces.main("smoke")
