"""W&B as a view of metrics.jsonl: the same rows, and no fault of W&B stops a run or keeps it waiting."""

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from experiments.harness.offline import is_offline
from experiments.harness.record import FINISHED, read_metrics, write_aside

STEP = "trainer/step"
"""The x axis of every chart. W&B's own step is the row's place in metrics.jsonl, from which a server that has the rows
0 to n - 1 says where to go on; it never goes back, which W&B would answer by dropping rows silently.
"""
MODES = ("online", "offline", "disabled")
FINISH_TIMEOUT_S = 60
"""What a run waits for its upload at its end; what stays behind is uploaded by ``make wandb-sync``."""
LONGEST_CALL_S = {"start": 60.0, "log a row": 30.0, "finish": FINISH_TIMEOUT_S + 30.0}
"""Seconds after which W&B's service is taken for dead. W&B itself waits for a service that hangs without any limit."""
SENT, COMPLETE = "wandb_rows_sent", "wandb_complete"
"""Files of a run: how many rows W&B has been given, on this machine or elsewhere; what a server has for certain."""
LEFT_OVER = ("SERVICE", "RUN_ID", "SWEEP_ID", "RESUME", "RESUME_FROM", "FORK_FROM", "RUN_GROUP", "NAME", "JOB_TYPE")
"""WANDB_* variables of another program or sweep, which W&B would put before what a run says about itself."""


def has_key() -> bool:
    """Whether W&B would find an account's key: in WANDB_API_KEY, or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return read_netrc_auth(host=base_url()) is not None


def base_url() -> str:
    """The address of the server that rows go to: that of WANDB_BASE_URL, that of ``wandb login``, or W&B's own."""
    import wandb

    settings = wandb.Settings()
    settings.update_from_system_settings()
    return os.environ.get("WANDB_BASE_URL") or settings.base_url


def study_of(config: dict[str, Any]) -> str:
    """``<task>/<scale>/<study>``, as in results/; a run that no study asked for goes to its experiment's own."""
    return "/".join(
        [config["task"], config["scale"], config["run"]["study"] or config["experiment"].rsplit("/", 1)[-1]]
    )


def description_of(config: dict[str, Any]) -> dict[str, Any]:
    """What W&B is told about a run besides its id, as plain data, from its whole resolved config.

    The run's group is named like the folder of its study's results; its job type is the phase of the
    study: search, confirm or length.
    """
    return {
        "project": config["run"]["wandb_project"],
        "name": f"{config['optimizer']['name']}-s{config['seed']}",
        "group": study_of(config),
        "job_type": config["run"]["phase"] or ("confirm" if config["test"] else "search"),
        "tags": [config["task"], config["scale"], config["optimizer"]["name"]],
        "config": {key: value for key, value in config.items() if key != "run"},
    }


class Tracker:
    """One W&B run under the run's own id. With ``mode="disabled"``, or after a fault, every call does nothing."""

    def __init__(self, directory: Path, mode: str, description: dict[str, Any], falls_back: bool = True) -> None:
        """``mode`` is auto or one of MODES; ``description`` is what ``description_of`` gives. It is kept beside the
        run, from where ``make wandb-sync`` sends what W&B never got. Where online is not to be had, ``falls_back`` says
        whether rows are kept offline instead.
        """
        if is_offline() and mode != "disabled":
            mode = "offline"
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        if mode not in MODES:
            print(f"WANDB_MODE={mode} is none of {', '.join(MODES)}: the run is logged offline.", flush=True)
            mode = os.environ["WANDB_MODE"] = "offline"
        self._directory = directory
        self._rows_seen = self._rows_sent = 0
        self._run: Any = None
        if mode == "disabled":
            return
        write_aside(directory / "wandb_run.json", json.dumps(description, indent=1) + "\n")
        self._guard("start", lambda: self._start(directory, mode, description))
        if self._run is None and mode == "online" and falls_back:
            self._guard("start", lambda: self._start(directory, "offline", description))

    def _start(self, directory: Path, mode: str, description: dict[str, Any]) -> None:
        for name in LEFT_OVER:
            os.environ.pop(f"WANDB_{name}", None)
        import wandb
        from wandb.sdk.lib.import_hooks import unregister_all_post_import_hooks

        run = wandb.init(
            **description,
            id=directory.name,
            dir=str(directory),
            mode=mode,  # type: ignore[arg-type]  # a plain str
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                base_url=base_url(),  # else a session that began before it was set keeps another
                console="off",
                silent=True,
                init_timeout=30,
                finish_timeout=FINISH_TIMEOUT_S,
                finish_timeout_raises=True,
                save_code=False,
                disable_git=True,
                host="",
                x_disable_machine_info=True,
            ),
        )
        # They tell W&B's service about later imports, and would raise out of these once it is dead.
        unregister_all_post_import_hooks()
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        self._rows_sent = run.starting_step if mode == "online" else _rows_sent(directory / SENT)
        self._run = run

    def _guard(self, what: str, action: Callable[[], None]) -> bool:
        """Carry out ``action`` and return whether it went well. Whatever W&B does, the run goes on after a while: its
        truth is metrics.jsonl.
        """
        faults: list[str] = []

        def attempt() -> None:
            try:
                action()
            except BaseException as error:  # W&B also raises KeyboardInterrupt and SystemExit of its own
                faults.append(str(error) or type(error).__name__)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(LONGEST_CALL_S[what])
        if thread.is_alive():
            faults.append(f"no answer within {LONGEST_CALL_S[what]:.0f} s")
        if faults:
            _end_service()
            print(f"W&B could not {what} ({faults[0]}); the run goes on without it.", flush=True)
            self._run = None
        return not faults

    def skip(self, rows: int) -> None:
        """Count the ``rows`` that metrics.jsonl already held when a run resumed; a server gets those that it lacks."""
        if self._is_online():
            for row in read_metrics(self._directory)[:rows]:
                self.log(row)
        self._rows_seen = rows

    def log(self, row: dict[str, float]) -> None:
        """Send one row of metrics.jsonl, unless W&B has it from an earlier life of this run."""
        place = self._rows_seen
        self._rows_seen += 1
        if self._run is None or place < self._rows_sent:
            return
        # Counted before it is sent: a kill between the two loses one row of an offline piece, never doubles one.
        (self._directory / SENT).write_text(str(self._rows_seen))
        values = {key: value for key, value in row.items() if key != "step"}
        self._guard("log a row", lambda: self._run.log({STEP: row["step"], **values}, step=place, commit=True))

    def finish(self, status: str, summary: dict[str, float]) -> bool:
        """Close the run: results (complete, diverged) end with exit code 0, all else (failed, interrupted) with 1.

        Returns whether a server has all of it now.
        """
        if self._run is None:
            return False
        log = Path(self._run.settings.sync_file) if self._is_online() else None
        done = self._guard("finish", lambda: self._finish(status, summary)) and log is not None
        if done:
            Path(f"{log}.synced").touch()  # W&B's own mark, which it leaves out for runs that it uploads itself
            write_aside(self._directory / COMPLETE, what_is_complete(self._rows_seen, status))
        return done

    def _is_online(self) -> bool:
        return self._run is not None and self._run.settings.mode != "offline"

    def _finish(self, status: str, summary: dict[str, float]) -> None:
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=int(status not in FINISHED))


def what_is_complete(rows: int, status: str) -> str:
    """What COMPLETE says once a server has that many rows of a run that has ended so."""
    return f"{rows} rows, {status}\n"


def _rows_sent(path: Path) -> int:
    """What the file says; where a crash has left it empty, all rows that there are, so that none is doubled."""
    if not path.exists():
        return 0
    try:
        return int(path.read_text())
    except ValueError:
        return len(read_metrics(path.parent))


def _end_service() -> None:
    """Have the next run of this process start a service anew, and the process not wait for this one at its end."""
    for child in psutil.Process().children(recursive=True):
        if child.name().startswith("wandb"):
            child.kill()

    def say_goodbye() -> None:
        with suppress(BaseException):  # there is nobody to say it to, which W&B ends with SystemExit
            sys.modules["wandb"].teardown()

    thread = threading.Thread(target=say_goodbye, daemon=True)
    thread.start()
    thread.join(LONGEST_CALL_S["log a row"])
