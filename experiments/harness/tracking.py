"""W&B as a view of metrics.jsonl: the same rows, and no fault of W&B stops a run."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.harness.record import FINISHED, write_aside

STEP = "trainer/step"
"""The x axis of every chart. W&B's own step is never passed: it drops rows silently once it has to go back."""


def has_key() -> bool:
    """Whether W&B would find an account's key: in WANDB_API_KEY, or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def study_of(config: dict[str, Any]) -> str:
    """``<task>/<scale>/<study>``, as in results/; a run that no study asked for goes to its experiment's own."""
    return "/".join(
        [config["task"], config["scale"], config["run"]["study"] or config["experiment"].rsplit("/", 1)[-1]]
    )


class Tracker:
    """One W&B run under the run's own id. With ``mode="disabled"``, or after a fault, every call does nothing."""

    def __init__(self, directory: Path, mode: str, config: dict[str, Any]) -> None:
        """``config`` is the whole resolved config.

        The run's group is named like the folder of its study's results; its job type is tune or confirm.
        """
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        self._sent_path = directory / "wandb_rows_sent"
        self._rows_seen = 0
        self._rows_sent = int(self._sent_path.read_text()) if self._sent_path.exists() else 0
        self._run: Any = None
        if mode != "disabled":
            self._guard("start", lambda: self._start(directory, mode, config))

    def _start(self, directory: Path, mode: str, config: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=config["run"]["wandb_project"],
            id=directory.name,
            name=f"{config['optimizer']['name']}-s{config['seed']}",
            group=study_of(config),
            job_type="confirm" if config["test"] else "tune",
            tags=[config["task"], config["scale"], config["optimizer"]["name"]],
            config={key: value for key, value in config.items() if key != "run"},
            dir=str(directory),
            mode=mode,  # type: ignore[arg-type]  # a plain str from the config; W&B names the choices if it is another
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=30,
                save_code=False,
                disable_git=True,
                host="",
                x_disable_machine_info=True,
            ),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    def _guard(self, what: str, action: Any) -> None:
        try:
            action()
        except Exception as error:  # whatever W&B raises: the run goes on, its truth is metrics.jsonl
            print(f"W&B could not {what} ({error}); the run goes on without it.", flush=True)
            self._run = None

    def skip(self, rows: int) -> None:
        """Count the ``rows`` that metrics.jsonl already held when a run resumed."""
        self._rows_seen = rows

    def log(self, row: dict[str, float]) -> None:
        """Send one row of metrics.jsonl, unless an earlier life of this run has sent it."""
        self._rows_seen += 1
        if self._run is None or self._rows_seen <= self._rows_sent:
            return
        # Counted before it is sent: a kill between the two loses one row of the view, never doubles one.
        write_aside(self._sent_path, str(self._rows_seen))
        values = {key: value for key, value in row.items() if key != "step"}
        self._guard("log a row", lambda: self._run.log({STEP: row["step"], **values}))

    def finish(self, status: str, summary: dict[str, float]) -> None:
        """Close the run: results (complete, diverged) end with exit code 0, all else (failed, interrupted) with 1."""
        if self._run is not None:
            self._guard("finish", lambda: self._finish(status, summary))

    def _finish(self, status: str, summary: dict[str, float]) -> None:
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=int(status not in FINISHED))
