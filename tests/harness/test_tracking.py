"""What is logged to W&B, read back from the offline run's file."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import wandb

from experiments.harness import checkpoint, tracking
from experiments.harness.entry import execute
from experiments.harness.record import read_metrics
from experiments.harness.run import locate
from experiments.harness.tracking import Tracker
from experiments.image_classification import task
from tests.conftest import MakeConfig, executed, status_of
from tests.harness.test_resume import crash_at_call

OFFLINE = "run.wandb=offline"


def pieces(directory: Path) -> list[Path]:
    """The offline folders of the run and its resumptions, oldest first."""
    return sorted((directory / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def inspect(folder: Path, *options: str) -> str:
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", *options, "--json", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All records of one kind in an offline folder."""
    lines = [json.loads(line) for line in inspect(folder).splitlines()]
    return [line[kind] for line in lines if line["type"] == kind]


def sent_rows(directory: Path) -> list[dict[str, Any]]:
    """The history that a sync would upload, in the form of metrics.jsonl."""
    items = [record["item"] for folder in pieces(directory) for record in records(folder, "history")]
    return [
        {key.removeprefix("trainer/"): value for key, value in item.items() if not key.startswith("_")}
        for item in items
    ]


def test_wandb_has_the_config_rows_and_summary_of_a_complete_run(make_config: MakeConfig) -> None:
    cfg = make_config(OFFLINE)
    directory = executed(cfg)
    (folder,) = pieces(directory)
    (run,) = records(folder, "run")
    config = run["config"]["update"]
    expected = {
        "run_id": directory.name,
        "display_name": "lion-s0",
        "project": "lion-reproduction",
        "run_group": "image_classification/smoke/smoke",
        "job_type": "confirm",
        "tags": ["image_classification", "smoke", "lion"],
    }
    assert expected.items() <= run.items()
    assert not run.get("host"), "no host name leaves the machine"
    assert config["optimizer"]["lr"] == cfg.optimizer.lr
    assert config["train"]["batch_size"] == 32
    assert "run" not in config, "paths of this machine stay here"
    # Every metric is plotted over our own step, and the rows are those of metrics.jsonl.
    assert {"glob_name": "*", "step_metric": "trainer/step"}.items() <= records(folder, "metric")[-1].items()
    assert sent_rows(directory) == read_metrics(directory)
    summary = json.loads(inspect(folder, "--summary"))
    assert (summary["state"], summary["exit_code"]) == ("finished", 0)
    assert summary["summary"]["status"] == "complete"
    assert summary["summary"]["test/top1"] == status_of(directory)["metrics"]["test/top1"]


def test_a_search_run_has_the_wandb_job_type_search(make_config: MakeConfig) -> None:
    (folder,) = pieces(executed(make_config(OFFLINE, "test=false")))
    (run,) = records(folder, "run")
    assert run["job_type"] == "search"


def test_a_diverged_run_finishes_in_wandb_without_failure(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "classification_metrics", lambda sums: {"loss": math.nan, "top1": 0.0})
    cfg = make_config(OFFLINE)
    summary = json.loads(inspect(pieces(executed(cfg))[0], "--summary"))
    assert (summary["exit_code"], summary["summary"]["status"]) == (0, "diverged")


def test_a_failed_run_fails_in_wandb_and_its_rows_are_sent_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(OFFLINE)
    with monkeypatch.context() as patch:
        crash_at_call(2, patch, checkpoint.TrainingState, "save", ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            execute(cfg)
    directory = locate(cfg).directory
    summary = json.loads(inspect(pieces(directory)[0], "--summary"))
    assert (summary["exit_code"], summary["summary"]["status"]) == (1, "failed")
    # It had rows after its checkpoint of step 3; the resumed run rewrites them in metrics.jsonl, and sends the rest.
    execute(cfg)
    assert len(pieces(directory)) == 2
    sent, kept = (
        [{key: value for key, value in row.items() if not key.startswith(("time/", "cost/"))} for row in found]
        for found in (sent_rows(directory), read_metrics(directory))
    )
    assert sent == kept


def test_a_run_continues_when_wandb_cannot_start(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("the service is down")

    monkeypatch.setattr(wandb, "init", broken)
    assert status_of(executed(make_config("run.wandb=online")))["status"] == "complete"
    assert "W&B could not start (the service is down); the run continues without it." in capsys.readouterr().out


@pytest.mark.parametrize(("key", "mode"), [("", "offline"), ("x" * 40, "online")])
def test_wandb_is_online_with_a_key_and_offline_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, mode: str
) -> None:
    seen = {}
    run = SimpleNamespace(starting_step=0, define_metric=lambda *arguments, **settings: None)
    monkeypatch.setattr(wandb, "init", lambda **settings: seen.update(settings) or run)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    Tracker(tmp_path, "auto", {})
    assert seen["mode"] == mode


def services() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "wandb" in child.name() and child.status() != "zombie"
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_run_completes_when_wandbs_service_dies_or_hangs(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    original = Tracker.log

    def log(self: Tracker, row: dict[str, float]) -> None:
        for service in services():
            service.send_signal(number)
        original(self, row)

    monkeypatch.setattr(Tracker, "log", log)
    monkeypatch.setattr(tracking, "LONGEST_CALL_S", {"start": 60.0, "log a row": 2.0, "finish": 2.0})
    assert status_of(executed(make_config(OFFLINE)))["status"] == "complete"
    assert "W&B could not" in capsys.readouterr().out
    assert services() == []


def test_an_empty_count_of_sent_rows_resends_no_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "wandb_rows_sent").touch()
    assert tracking.rows_sent(tmp_path / "wandb_rows_sent") == 2


def test_rows_are_kept_offline_when_the_wandb_server_refuses_the_key(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = wandb.init
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_SERVICE", "4-1-unix-/nowhere")

    def refusing(**settings: Any) -> Any:
        if settings["mode"] == "online":
            raise wandb.errors.AuthenticationError("a bad key")
        return original(**settings)

    monkeypatch.setattr(wandb, "init", refusing)
    directory = executed(make_config("run.wandb=online"))
    assert sent_rows(directory) == read_metrics(directory)
    (run,) = records(pieces(directory)[0], "run")
    assert run["run_id"] == directory.name
    assert not run.get("sweep_id")
    assert "WANDB_RUN_ID" not in os.environ
