"""A run that is stopped at any point and restarted ends with the same bits."""

import os
import signal
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from experiments.harness import checkpoint, checkpoint_files, record
from experiments.harness.entry import execute
from experiments.harness.run import locate
from experiments.harness.signals import EXIT_CODE
from tests import forked
from tests.conftest import AVERAGED, Killed, MakeConfig, executed, last_checkpoint, rows, status_of

LONGER = ["train.steps=24", "train.log_every=1", "run.checkpoint_every=5", "train.evaluate_every=8", AVERAGED]
WAIT_S = 300.0
"""Far above what anything here takes on a busy machine."""
End = tuple[list[dict[str, Any]], dict[str, Any]]
"""The rows of a run, and its last checkpoint."""


def end_of(cfg: DictConfig) -> End:
    directory = executed(cfg)
    return rows(directory), last_checkpoint(directory)


def assert_same_end(ours: End, theirs: End) -> None:
    assert ours[0] == theirs[0]
    for part in ("model", "ema"):
        assert ours[1][part].keys() == theirs[1][part].keys()
        assert all(torch.equal(value, theirs[1][part][name]) for name, value in ours[1][part].items())
    for key, state in ours[1]["optimizer"]["state"].items():
        assert all(torch.equal(value, theirs[1]["optimizer"]["state"][key][name]) for name, value in state.items())


@pytest.fixture(scope="module")
def longer_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.fixture
def uninterrupted(make_config: MakeConfig, longer_runs: Path) -> End:
    """The end of a run that only the first test that needs it executes."""
    return end_of(make_config(*LONGER, f"run.runs_dir={longer_runs}"))


def test_a_run_that_also_saves_by_the_clock_has_a_checkpoint_of_each_late_step_and_the_same_end(
    make_config: MakeConfig, uninterrupted: End
) -> None:
    cfg = make_config(*LONGER, "run.checkpoint_minutes=0", "run.keep_checkpoints=100")
    assert_same_end(end_of(cfg), uninterrupted)
    steps = [int(path.name.split("-")[1]) for path in checkpoint_files.checkpoints(locate(cfg).directory)]
    assert steps == [*range(1, 25)]


def crash_at_call(
    number: int, patch: pytest.MonkeyPatch, owner: Any, name: str, error: type[BaseException] = Killed
) -> None:
    """Of a function or method; one of RunRecord leaves a torn write."""
    original, calls = getattr(owner, name), count(1)

    def crashing(*arguments: Any, **details: Any) -> Any:
        if next(calls) == number:
            if isinstance(arguments[0], record.RunRecord):
                arguments[0]._metrics.write(b'{"step": 3, "tor')
                arguments[0]._metrics.flush()
            raise error
        return original(*arguments, **details)

    patch.setattr(owner, name, crashing)


CALLS = {"append": (1, 2, 9), "metrics_bytes": (1, 2), "cut_back": (1,), "set_status": (1, 2), "digest_of": (2,)}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name in CALLS for call in CALLS[name]])
def test_a_crash_at_any_write_does_not_change_the_resumed_run(
    make_config: MakeConfig, uninterrupted: End, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    cfg = make_config(*LONGER)
    with monkeypatch.context() as patch:
        crash_at_call(call, patch, checkpoint_files if name == "digest_of" else record.RunRecord, name)
        with pytest.raises(Killed):
            execute(cfg)
    assert_same_end(end_of(cfg), uninterrupted)


def wait_for_row(directory: Path, count: int, process: subprocess.Popen[bytes] | forked.Started) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        metrics = directory / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended with exit code {process.poll()} before it had {count} rows")


def test_a_run_resumed_after_sigkill_and_sigterm_is_bit_identical(
    make_config: MakeConfig, uninterrupted: End, command_line: list[str]
) -> None:
    cfg = make_config(*LONGER)
    directory = locate(cfg).directory
    # Started, killed after 3 rows, continued, asked to stop after 15, continued to the end.
    killed = forked.Started([*command_line, *LONGER])
    wait_for_row(directory, 3, killed)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.result().returncode == -signal.SIGKILL
    assert status_of(directory)["status"] == "running"
    asked = subprocess.Popen([*command_line, *LONGER], stderr=subprocess.PIPE)  # a new process, as after a reboot
    wait_for_row(directory, 15, asked)
    asked.terminate()
    _, errors = asked.communicate(timeout=WAIT_S)
    assert asked.returncode == EXIT_CODE, errors
    assert status_of(directory)["status"] == "running"
    assert b"the same command continues it" in errors
    assert_same_end(end_of(cfg), uninterrupted)


def test_a_failed_run_resumes_once_its_fault_is_fixed(
    make_config: MakeConfig, uninterrupted: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(*LONGER)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.TrainingState, "evaluated", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute(cfg)
    status = status_of(locate(cfg).directory)
    assert (status["status"], status["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert_same_end(end_of(cfg), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_process_group_lets_the_run_save_before_its_data_workers_end(
    make_config: MakeConfig, command_line: list[str], number: signal.Signals
) -> None:
    longer = ["train.steps=4000", "train.log_every=1", "run.checkpoint_every=4000", "run.num_workers=2"]
    directory = locate(make_config(*longer)).directory
    process = forked.Started([*command_line, *longer])
    wait_for_row(directory, 3, process)
    os.killpg(process.pid, number)
    result = process.result()
    assert result.returncode == EXIT_CODE, result.stderr
    assert list(directory.glob("step-*.pt")), result.stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no worker remains


def test_a_run_started_with_nohup_survives_sighup(make_config: MakeConfig, command_line: list[str]) -> None:
    directory = locate(make_config(*LONGER)).directory
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = forked.Started([*command_line, *LONGER])
    finally:
        signal.signal(signal.SIGHUP, handler)
    wait_for_row(directory, 3, process)
    os.kill(process.pid, signal.SIGHUP)
    assert process.result().returncode == 0
