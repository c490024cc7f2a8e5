"""W&B's server ends up with every row exactly once, whatever happened to the run's connection."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb

from experiments.harness import tracking
from experiments.harness.entry import execute
from experiments.harness.errors import SuiteError
from experiments.harness.record import read_metrics, take_lock
from experiments.harness.run import locate
from experiments.harness.tracking import Tracker
from experiments.report.wandb_sync import sync
from tests.conftest import MakeConfig, executed
from tests.report.wandb_server import Server, serving

ONLINE, OFFLINE = "run.wandb=online", "run.wandb=offline"


@pytest.fixture(scope="module")
def listening() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(listening: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    monkeypatch.setenv("WANDB_BASE_URL", listening.url)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(tracking, "LONGEST_CALL_S", {"start": 60.0, "log a row": 10.0, "finish": 20.0})
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT_S", 2)
    listening.refuses = False
    listening.history.clear()
    return listening


def held(server: Server, run: Path) -> list[tuple[int, dict[str, float]]]:
    """The server's rows in order, as in metrics.jsonl, without times, which differ after a resumption."""
    return [(row["_step"], untimed({**row, "step": row["trainer/step"]})) for row in server.history.get(run.name, [])]


def recorded(run: Path) -> list[tuple[int, dict[str, float]]]:
    return [(place, untimed(row)) for place, row in enumerate(read_metrics(run))]


def untimed(row: dict[str, Any]) -> dict[str, float]:
    left_out = ("_", "time/", "cost/peak_bytes", "trainer/step")
    return {name: value for name, value in row.items() if not name.startswith(left_out)}


def execute_until(cfg: Any, row: int, and_services: bool) -> None:
    """Run in a fork that is killed by SIGKILL before a row is sent, with or without W&B's service."""
    child = os.fork()
    if child == 0:
        log = Tracker.log

        def killing(self: Tracker, values: dict[str, float]) -> None:
            if self._rows_seen == row:
                time.sleep(1)  # so that W&B has sent some of them
                for service in psutil.Process().children() if and_services else []:
                    service.kill()
                os.kill(os.getpid(), signal.SIGKILL)
            log(self, values)

        setattr(Tracker, "log", killing)  # noqa: B010
        try:
            execute(cfg)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_an_earlier_wandb_session_with_another_server_does_not_divert_a_run(
    make_config: MakeConfig, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.teardown()
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        wandb.setup()
    cfg = make_config(ONLINE)
    run = executed(cfg)
    assert held(server, run) == recorded(run)


@pytest.mark.parametrize("and_services", [True, False])
def test_a_run_killed_while_online_has_every_row_exactly_once(
    make_config: MakeConfig, server: Server, capsys: pytest.CaptureFixture[str], and_services: bool
) -> None:
    cfg = make_config(ONLINE)
    run = locate(cfg).directory
    execute_until(cfg, 5, and_services)
    assert sync(run.parents[1])
    assert held(server, run) == recorded(run)  # of a run that may never be resumed
    execute(cfg)
    assert held(server, run) == recorded(run)
    assert sync(run.parents[1])
    assert "runs uploaded: 0, failed: 0" in capsys.readouterr().out


def test_rows_missed_by_a_failing_server_are_synced_later(
    make_config: MakeConfig, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Tracker.log

    def losing(self: Tracker, values: dict[str, float]) -> None:
        if self._rows_seen == 4:
            time.sleep(1)
            server.refuses = True
        log(self, values)

    cfg = make_config(ONLINE)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log", losing)
        execute(cfg)
    run = locate(cfg).directory
    assert len(held(server, run)) < len(recorded(run))
    with pytest.raises(SuiteError, match=r"cannot be reached .*503.*: nothing was uploaded"):
        sync(run.parents[1])
    server.refuses = False
    assert sync(run.parents[1])
    assert held(server, run) == recorded(run)


def test_an_offline_run_in_two_pieces_is_synced_once_and_marked_as_synced(
    make_config: MakeConfig, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_config(OFFLINE)
    run = locate(cfg).directory
    execute_until(cfg, 5, and_services=True)
    execute(cfg)
    for said in ("runs uploaded: 1, failed: 0", "runs uploaded: 0, failed: 0"):
        assert sync(run.parents[1])
        assert said in capsys.readouterr().out
        assert held(server, run) == recorded(run)
    pieces = list(run.glob("wandb/*run-*/*.wandb"))
    assert len(pieces) == 3
    assert all(Path(f"{piece}.synced").exists() for piece in pieces)


def test_a_run_resumed_online_uploads_its_offline_rows(make_config: MakeConfig, server: Server) -> None:
    run = locate(make_config()).directory
    execute_until(make_config(OFFLINE), 5, and_services=True)
    execute(make_config(ONLINE))
    assert held(server, run) == recorded(run)


def test_live_and_damaged_runs_do_not_block_the_upload_of_others(
    make_config: MakeConfig, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for seed in range(4):
        cfg = make_config(OFFLINE, f"seed={seed}")
        runs.append(executed(cfg))
    (runs[1] / "metrics.jsonl").write_text("[]\n")
    (runs[3] / "wandb_run.json").write_text("{")
    with take_lock(runs[0]):
        assert not sync(runs[0].parents[1])
    said = capsys.readouterr().out
    assert f"{runs[0].name}: still being written; call again when it has ended" in said
    assert "is damaged: line 1 is not a row of metrics" in said
    assert "wandb_run.json is damaged" in said
    assert f"{runs[3].name}: incomplete; the next call continues" in said
    assert "runs uploaded: 1, failed: 2" in said
    assert [run.name for run in runs if server.history.get(run.name)] == [runs[2].name]


def test_syncing_without_folder_or_server_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SuiteError, match=rf"There is no folder {tmp_path}/runs"):
        sync(tmp_path / "runs")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(SuiteError, match=r"W&B at http://127\.0\.0\.1:9 cannot be reached"):
        sync(tmp_path)
