"""The progress display of a running study, from hand-written records."""

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.study import progress
from experiments.study.course import PlannedRun
from experiments.study.progress import Progress, duration, newest_row


def write(directory: Path, status: str = "running", row: Mapping[str, Any] | None = None) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text("train:\n  steps: 100\n")
    (directory / "status.json").write_text(json.dumps({"status": status}))
    if row:
        with (directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def runs_of(folder: Path, *names: str) -> list[PlannedRun]:
    return [PlannedRun([], folder / name, "lion", "search", 0) for name in names]


def test_progress_is_computed_from_run_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    runs = runs_of(tmp_path, "found", "interrupted", "trains", "starts", "diverges", "later")
    write(tmp_path / "found", "complete")
    write(tmp_path / "interrupted", row={"step": 40})
    told = Progress(10, Console(file=io.StringIO()))
    told.begin("search, round 1 of 3", runs)
    assert told.look()[0] == "search, round 1 of 3: 1 of 10 runs done, 0 running, 9 to do"  # no process runs the second

    write(tmp_path / "trains", row={"step": 20, "train/loss": 1.234, "train/lr": 0.00321, "time/train_s": 4.0})
    write(tmp_path / "trains", row={"step": 20, "val/loss": 1.5})
    write(tmp_path / "starts")
    sentence, running = told.look()
    assert sentence.endswith("1 of 10 runs done, 2 running, 7 to do")  # no pace yet
    assert running == ["trains step 20 of 100, loss 1.23, lr 0.0032, 5 steps/s", "starts"]

    clock[0] += 30
    write(tmp_path / "trains", "complete")
    write(tmp_path / "diverges", "diverged")
    sentence, _ = told.look()
    # 1.8 runs in 30 s since the first look; 6.6 of 10 are left: 1 was done at first, 2 since, and 0.4 of another.
    assert sentence.endswith(
        f"3 of 10 runs done (1 diverged), 1 running, 6 to do; about {duration(30 / 1.8 * 6.6)} left"
    )
    clock[0] += 60
    assert told.look()[0].endswith(f"about {duration(30 / 1.8 * 6.6 - 60)} left")


def test_a_run_that_saved_before_its_first_row_is_one_to_continue(tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path, "saved")
    write(run.directory)
    (run.directory / f"step-{11:08d}-{0:016x}.pt").touch()
    shown = io.StringIO()
    with Progress(1, Console(file=shown, width=120)) as told:
        told.begin("search", [run])
    assert "search: 1 of 1 runs to continue" in shown.getvalue()


def test_progress_tolerates_torn_damaged_and_missing_records(tmp_path: Path) -> None:
    assert newest_row(tmp_path / "nowhere") == {}
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\nnonsense\n[3]\n{"step": 2, "a": 1}\n{"step": 3, "tr')
    assert newest_row(tmp_path) == {"step": 2, "a": 1}
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "long": "' + b"x" * 20000 + b'"}\n{"step": 2}\n')
    assert newest_row(tmp_path) == {"step": 2}

    (runs := runs_of(tmp_path, "torn", "empty"))[0].directory.mkdir()
    (tmp_path / "torn/status.json").write_text('{"stat')
    write(tmp_path / "empty", row={"step": "three"})
    (tmp_path / "empty/config.yaml").write_text(": [")
    with Progress(2, Console(file=io.StringIO())) as told:
        told.begin("confirmation", runs, last=True)
        (tmp_path / "empty/status.json").write_text('{"status": "running"}')
        assert told.look() == ("confirmation: 0 of 2 runs done, 1 running, 1 to do", ["empty"])


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_logged_as_lines_but_redrawn_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(progress, "LOOK_S", 0.01)
    monkeypatch.setattr(progress, "LINE_S", 0.05)
    output = io.StringIO()
    (run,) = runs_of(tmp_path, "one")
    with Progress(1, Console(file=output, force_terminal=is_terminal, width=100)) as told:
        told.begin("confirmation", [run], last=True)
        write(run.directory, row={"step": 50, "train/loss": 2.0, "train/lr": 0.1, "time/train_s": 5.0})
        deadline = time.monotonic() + 30
        while "step 50 of 100, loss 2, lr 0.1, 10 steps/s" not in output.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        write(run.directory, "complete")
    said = output.getvalue().splitlines()
    assert "confirmation: 0 of 1 runs done, 1 running, 0 to do" in output.getvalue()
    assert said[-1].endswith("All 1 runs are done, after 0 s.")
    assert ("\x1b[" in output.getvalue()) == is_terminal


def test_an_interrupted_study_prints_what_is_saved(tmp_path: Path) -> None:
    output = io.StringIO()
    runs = runs_of(tmp_path, "one", "two", "three")
    told = Progress(3, Console(file=output))
    told.begin("search", runs)
    write(tmp_path / "one", "complete")
    write(tmp_path / "two", row={"step": 30})
    with pytest.raises(SystemExit), told:
        raise SystemExit(75)
    assert output.getvalue() == "1 of 3 runs are done, 1 saved partway.\n"


def test_progress_prints_nothing_when_all_runs_were_done_before(tmp_path: Path) -> None:
    output = io.StringIO()
    write(tmp_path / "one", "complete")
    with Progress(1, Console(file=output)) as told:
        told.begin("search", runs_of(tmp_path, "one"), last=True)
    assert output.getvalue() == ""
