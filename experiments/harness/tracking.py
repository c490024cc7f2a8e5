"""W&B as a mirror of metrics.jsonl: it gets the same rows, and no failure of W&B stops or delays a run."""

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from experiments.harness.files import write_aside
from experiments.harness.offline import is_offline
from experiments.harness.record import FINISHED, read_metrics

STEP = "trainer/step"
"""The x axis of every chart. W&B's own step is the row's index in metrics.jsonl, so a server that has rows 0 to n - 1
says where to continue; it never decreases, since W&B would then silently drop rows.
"""
MODES = ("online", "offline", "disabled")
FINISH_TIMEOUT_S = 60
"""How long a run waits for its upload at its end; ``make wandb-sync`` uploads the rest."""
LONGEST_CALL_S = {"start": 60.0, "log a row": 30.0, "finish": FINISH_TIMEOUT_S + 30.0}
"""Seconds after which W&B's service is considered dead. W&B itself would wait for a hanging service forever."""
SENT, COMPLETE = "wandb_rows_sent", "wandb_complete"
"""Files of a run: how many rows were handed to W&B, here or elsewhere; and what a server certainly has."""
LEFT_OVER = ("SERVICE", "RUN_ID", "SWEEP_ID", "RESUME", "RESUME_FROM", "FORK_FROM", "RUN_GROUP", "NAME", "JOB_TYPE")
"""WANDB_* variables of another program or sweep, which would override a run's own settings."""


def has_key() -> bool:
    """Whether W&B would find an API key: in WANDB_API_KEY, or where `wandb login` stores it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return read_netrc_auth(host=base_url()) is not None


def base_url() -> str:
    """The address of the W&B server: from WANDB_BASE_URL, from ``wandb login``, or W&B's own."""
    import wandb

    settings = wandb.Settings()
    settings.update_from_system_settings()
    return os.environ.get("WANDB_BASE_URL") or settings.base_url


def study_of(config: dict[str, Any]) -> str:
    """``<task>/<scale>/<study>``, as in results/; a run outside a study belongs to its experiment's own study."""
    return "/".join(
        [config["task"], config["scale"], config["run"]["study"] or config["experiment"].rsplit("/", 1)[-1]]
    )


def description_of(config: dict[str, Any]) -> dict[str, Any]:
    """W&B's metadata of a run besides its id, as plain data, from the complete resolved config: the group is the study,
    the job type its phase (search, confirm or length).
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
    """One W&B run under the run's own id. With ``mode="disabled"``, or after a failure, every call is a no-op."""

    def __init__(self, directory: Path, mode: str, description: dict[str, Any], falls_back: bool = True) -> None:
        """``mode`` is auto or one of MODES; ``description`` is the result of ``description_of``, which is saved in the
        run's folder for ``make wandb-sync``. ``falls_back``: log offline if online does not work.
        """
        if is_offline() and mode != "disabled":
            mode = "offline"
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        if mode not in MODES:
            print(f"WANDB_MODE={mode} is not one of {', '.join(MODES)}: the run is logged offline.", flush=True)
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
                base_url=base_url(),  # otherwise an older session keeps a previous address
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
        # These hooks report imports to W&B's service; once it is dead, they would make imports fail.
        unregister_all_post_import_hooks()
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        self._rows_sent = run.starting_step if mode == "online" else rows_sent(directory / SENT)
        self._run = run

    def _guard(self, what: str, action: Callable[[], None]) -> bool:
        """Whether ``action`` succeeded within its time limit. Whatever W&B does, the run goes on."""
        faults: list[str] = []

        def attempt() -> None:
            try:
                action()
            except BaseException as error:  # W&B itself may raise KeyboardInterrupt and SystemExit
                faults.append(str(error) or type(error).__name__)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(LONGEST_CALL_S[what])
        if thread.is_alive():
            faults.append(f"no answer within {LONGEST_CALL_S[what]:.0f} s")
        if faults:
            _end_service()
            print(f"W&B could not {what} ({faults[0]}); the run continues without it.", flush=True)
            self._run = None
        return not faults

    def skip(self, rows: int) -> None:
        """Skip the ``rows`` already in metrics.jsonl when a run resumes; a server is sent those it lacks."""
        if self._is_online():
            for row in read_metrics(self._directory)[:rows]:
                self.log(row)
        self._rows_seen = rows

    def log(self, row: dict[str, float]) -> None:
        """Send one row of metrics.jsonl, unless W&B has it from before a resume."""
        place = self._rows_seen
        self._rows_seen += 1
        if self._run is None or place < self._rows_sent:
            return
        # Counted before it is sent: a kill in between loses one row of an offline log but never duplicates one.
        (self._directory / SENT).write_text(str(self._rows_seen))
        values = {key: value for key, value in row.items() if key != "step"}
        self._guard("log a row", lambda: self._run.log({STEP: row["step"], **values}, step=place, commit=True))

    def finish(self, status: str, summary: dict[str, float]) -> bool:
        """Close the run: with exit code 0 for a result (complete, diverged), 1 otherwise (failed, interrupted). Returns
        whether a server now has everything.
        """
        if self._run is None:
            return False
        log = Path(self._run.settings.sync_file) if self._is_online() else None

        def finish() -> None:
            self._run.summary.update({"status": status, **summary})
            self._run.finish(exit_code=int(status not in FINISHED))

        done = self._guard("finish", finish) and log is not None
        if done:
            Path(f"{log}.synced").touch()  # W&B's own mark, which it does not set for runs it logs online
            write_aside(self._directory / COMPLETE, what_is_complete(self._rows_seen, status))
        return done

    def _is_online(self) -> bool:
        return self._run is not None and self._run.settings.mode != "offline"


def what_is_complete(rows: int, status: str) -> str:
    """The content of COMPLETE once a server has this many rows of a run with this final status."""
    return f"{rows} rows, {status}\n"


def rows_sent(path: Path) -> int:
    """The number in the file; if a crash left it empty, the number of all rows, so that none is duplicated."""
    if not path.exists():
        return 0
    try:
        return int(path.read_text())
    except ValueError:
        return len(read_metrics(path.parent))


def _end_service() -> None:
    """Kill W&B's service, so that the next run starts a new one and this process does not wait for it at exit."""
    for child in psutil.Process().children(recursive=True):
        if child.name().startswith("wandb"):
            child.kill()

    def say_goodbye() -> None:
        with suppress(BaseException):  # the service is dead, so W&B raises SystemExit
            sys.modules["wandb"].teardown()

    thread = threading.Thread(target=say_goodbye, daemon=True)
    thread.start()
    thread.join(LONGEST_CALL_S["log a row"])
