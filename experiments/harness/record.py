"""The run record, ``runs/<task>/<run id>/``: the only source of truth about a run; everything else is derived from it.

config.yaml       the part of the config that decides the result
metrics.jsonl     one JSON object per line, each with "step"
status.json       running, complete, diverged or failed; replaced atomically
environment.json  the code, packages and hardware that produced it
parameter_groups.json  which parameters weight decay applied to
example_losses.npz     one metric's value for each test example
step-*            checkpoints (see checkpoint.py)
log.txt           console output of a run that belongs to a study
lock              held by the process that writes here
"""

import fcntl
import io
import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from omegaconf import OmegaConf

from experiments.harness.errors import DISK_FULL, RunError
from experiments.harness.files import sha256_of, write_aside
from experiments.harness.provenance import environment

if TYPE_CHECKING:
    import numpy as np  # loaded once the run's instruction set is pinned

FINISHED = ("complete", "diverged")
"""Final states: a run in one of them is never run again."""

LOCK_WAIT_S = 15.0
"""Seconds to wait for a locked run before giving up. The Ray workers of a killed study live on for 3 s; the data
workers of a killed run, which share its lock, until PyTorch next checks for their parent (5 s).
"""


LEFT_BEHIND = re.compile(r"\..+\.\d+")
"""Names of temporary files that a killed process was writing: a dot, the file name, the process id or the step."""


def read_status(directory: Path) -> dict[str, Any] | None:
    """The run's status; None if no run has started, or if the file is damaged, so that the run counts as unfinished."""
    try:
        status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return status if isinstance(status, dict) and isinstance(status.get("status"), str) else None


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """All complete rows of metrics.jsonl, without a last line cut off by a crash. RunError if a line is not a row."""
    path = directory / "metrics.jsonl"
    content = path.read_bytes() if path.exists() else b""
    rows = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "step" not in row:
            raise RunError(f"{path} is damaged: line {number} is not a row of metrics. Delete the folder {directory}.")
        rows.append(row)
    return rows


def last_values(directory: Path) -> dict[str, Any]:
    """The last value of every metric that the run has recorded."""
    return {key: value for row in read_metrics(directory) for key, value in row.items()}


def read_example_losses(directory: Path) -> "tuple[str, np.ndarray]":
    """The metric, as ``test/<name>``, and its value for each test example, float32 ``[examples]``. RunError if the file
    is damaged.
    """
    import numpy as np

    path = directory / "example_losses.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            (name,) = file.files
            return f"test/{name}", file[name]
    except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
        raise RunError(
            f"{path} is damaged ({type(error).__name__}): rerunning the same command repeats the run's last part."
        ) from error


def metrics_sha256(directory: Path) -> str:
    """SHA-256 of the current metrics.jsonl."""
    return sha256_of(directory / "metrics.jsonl")


def is_held(directory: Path) -> bool:
    """Whether a process is writing to the run right now."""
    path = directory / "lock"
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def take_lock(directory: Path) -> TextIO:
    """Lock the run's ``directory``, creating it if necessary, until the returned file is closed or the process dies.
    Raises RunError if another process still holds the lock after LOCK_WAIT_S.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    reported = False
    while True:
        path = directory / "lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise RunError(f"The run {directory} cannot be written ({error.strerror}): set run.runs_dir.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            if time.monotonic() > deadline:
                raise RunError(
                    f"The run {directory} is held by another process (pid {holder}): wait for it or stop it."
                ) from error
            if not reported:
                print(f"{directory.name}: held by process {holder}, waiting for it to finish", flush=True)
                reported = True
            time.sleep(0.1)
            continue
        if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            return lock
        lock.close()  # the folder was set aside after it was opened: the lock is no longer on the run


SUPERSEDED = ".superseded"
"""Beside the runs of a task, the folder of those that were set aside, each under its name, its digest and a number."""


def set_aside(directory: Path) -> None:
    """Move an existing run out of the way without deleting it; RunError while a process works on it."""
    if not directory.exists():
        return
    with take_lock(directory):
        status = read_status(directory)
        if status is None:
            return
        superseded = directory.parent / SUPERSEDED
        superseded.mkdir(exist_ok=True)
        names = (f"{directory.name}-{status.get('sources_digest')}-{number}" for number in itertools.count())
        directory.rename(next(superseded / name for name in names if not (superseded / name).exists()))


class RunRecord:
    """The only writer of a run directory. A second process that opens the same directory gets a RunError."""

    def __init__(self, directory: Path, digest: str, result_config: dict[str, Any]) -> None:
        """``digest`` identifies the source code. ``finished`` is set if another process finished the run before this
        one got the lock; nothing is written then.
        """
        self.directory, self.digest = directory, digest
        self._lock = take_lock(directory)
        self._metrics = (directory / "metrics.jsonl").open("ab")
        found = read_status(directory)
        if found and found.get("sources_digest") != digest:
            self.__exit__()
            raise RunError(f"The run {directory} was meanwhile taken by different source code: rerun the same command.")
        self.finished = found is not None and found["status"] in FINISHED
        if self.finished:
            return
        for path in directory.iterdir():
            if LEFT_BEHIND.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_aside(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(result_config), sort_keys=True))
        write_aside(directory / "environment.json", json.dumps(environment(digest), indent=1) + "\n")
        self.set_status("running")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        self._lock.close()

    def set_status(self, status: str, **details: Any) -> None:
        """Write status.json; ``details`` are the last metrics, the step of a divergence, a reason. For a final status
        it also holds the SHA-256 of metrics.jsonl, so that later damage is noticed.
        """
        os.fsync(self._metrics.fileno())
        if status in FINISHED:
            details["metrics_sha256"] = metrics_sha256(self.directory)
        content = {"status": status, "sources_digest": self.digest, **details}
        write_aside(self.directory / "status.json", json.dumps(content, indent=1, allow_nan=False) + "\n")

    def append(self, row: dict[str, float]) -> None:
        """Add one row to metrics.jsonl. A value that is not finite is a programming error: divergence is a status."""
        self._metrics.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._metrics.flush()

    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl, flushed to disk, for a checkpoint to remember."""
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def cut_back(self, metrics_bytes: int) -> int:
        """Drop the rows written after a checkpoint, which the resumed run will write again; returns how many remain."""
        self._metrics.truncate(metrics_bytes)
        self._metrics.seek(metrics_bytes)
        return len(read_metrics(self.directory))

    def add_environment(self, section: str, **facts: Any) -> None:
        """Add to a section of environment.json what is known only once the run has its device and its inputs."""
        path = self.directory / "environment.json"
        content = json.loads(path.read_text())
        content[section] = {**content.get(section, {}), **facts}
        write_aside(path, json.dumps(content, indent=1) + "\n")

    def write_example_losses(self, metric: str, losses: "np.ndarray") -> None:
        """Save the value of a test metric for each test example."""
        import numpy as np

        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{metric: losses.astype(np.float32)})
        write_aside(self.directory / "example_losses.npz", buffer.getvalue())

    def write_parameter_groups(self, groups: dict[str, list[str]]) -> None:
        """Save which parameters decay and which do not."""
        write_aside(self.directory / "parameter_groups.json", json.dumps(groups, indent=1) + "\n")
