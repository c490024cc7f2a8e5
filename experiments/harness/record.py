"""The run record, ``runs/<task>/<run id>/``: the truth about a run, from which everything else is drawn.

config.yaml       the part of the config that decides the result
metrics.jsonl     one JSON object a line, each with "step"
status.json       running, complete, diverged or failed; written aside and renamed
environment.json  what produced it
parameter_groups.json  which parameters weight decay applied to
step-*.pt         checkpoints (see checkpoint.py)
lock              held by the process that writes here
"""

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from omegaconf import OmegaConf

from experiments.harness.errors import RunError
from experiments.harness.provenance import environment

FINISHED = ("complete", "diverged")
"""States that are results: a run in one of them is never run again."""

LOCK_WAIT_S = 15.0
"""Seconds until a run that is held is refused. The Ray workers of a killed study live on for 3 s; the data workers of a
killed run, which share its lock, until PyTorch's next look at their parent (5 s).
"""


def write_aside(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` so that a reader, or a crash, sees the old or the new file and nothing between."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)


def read_status(directory: Path) -> dict[str, Any] | None:
    """The run's status, or None where no run has started."""
    path = directory / "status.json"
    return json.loads(path.read_text()) if path.exists() else None


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """All whole rows of metrics.jsonl; a last line that a crash has torn is left out."""
    path = directory / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def is_held(directory: Path) -> bool:
    """Whether a process writes to the run at this moment."""
    path = directory / "lock"
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def set_aside(directory: Path, status: dict[str, Any]) -> None:
    """Move a run of other sources out of the way, keeping it."""
    number = 0
    while (
        aside := directory.parent / ".superseded" / f"{directory.name}-{status['sources_digest']}-{number}"
    ).exists():
        number += 1
    aside.parent.mkdir(exist_ok=True)
    directory.rename(aside)


class RunRecord:
    """The one writer of a run directory. A second process that opens the same directory gets a RunError."""

    def __init__(self, directory: Path, digest: str, result_config: dict[str, Any]) -> None:
        """``digest`` is that of the sources that the run is made by."""
        self.directory, self.digest = directory, digest
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("a+")
        self._take_lock()
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        write_aside(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(result_config), sort_keys=True))
        write_aside(directory / "environment.json", json.dumps(environment(digest), indent=1) + "\n")
        self._metrics = (directory / "metrics.jsonl").open("ab")
        self.set_status("running")

    def _take_lock(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        told = False
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._lock.seek(0)
                holder = self._lock.read().strip() or "unknown"
                if time.monotonic() > deadline:
                    self._lock.close()
                    raise RunError(
                        f"The run {self.directory} is held by another process (pid {holder}): wait for it or stop it."
                    ) from error
            if not told:
                print(f"{self.directory.name}: held by process {holder}, waiting for it to leave", flush=True)
                told = True
            time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.close()
        self._lock.close()

    def set_status(self, status: str, **details: Any) -> None:
        """Write status.json; ``details`` are the last metrics, the step of a divergence, a reason."""
        content = {"status": status, "sources_digest": self.digest, **details}
        write_aside(self.directory / "status.json", json.dumps(content, indent=1, allow_nan=False) + "\n")

    def append(self, row: dict[str, float]) -> None:
        """Add one row to metrics.jsonl. A value that is not finite is a programming error: divergence is a status."""
        self._metrics.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._metrics.flush()

    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl, all of it on disk: what a checkpoint of this moment must remember."""
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def cut_back(self, metrics_bytes: int) -> int:
        """Drop the rows written after a checkpoint, which the resumed run writes again; returns how many are left."""
        self._metrics.truncate(metrics_bytes)
        self._metrics.seek(metrics_bytes)
        return len(read_metrics(self.directory))

    def add_environment(self, section: str, **facts: Any) -> None:
        """Note in a section of environment.json what is known only once the run has its device and its inputs."""
        path = self.directory / "environment.json"
        content = json.loads(path.read_text())
        content[section] = {**content.get(section, {}), **facts}
        write_aside(path, json.dumps(content, indent=1) + "\n")

    def write_parameter_groups(self, groups: dict[str, list[str]]) -> None:
        """Note which parameters decay and which do not."""
        write_aside(self.directory / "parameter_groups.json", json.dumps(groups, indent=1) + "\n")
