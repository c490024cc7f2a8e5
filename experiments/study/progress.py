"""Report the progress of studies while a launcher executes their runs, from the runs' records, wherever they run."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from rich.console import Console
from rich.live import Live
from rich.text import Text

from experiments.harness.checkpoint_files import checkpoints, step_of
from experiments.harness.record import FINISHED, read_status
from experiments.study.course import PlannedRun

LOOK_S, LINE_S = 2.0, 60.0
"""Seconds between reads of the records, each of which updates the terminal; and between lines in a log."""
TAIL_BYTES = 16384
"""How much of the end of metrics.jsonl is read: several rows for any task."""


class Progress:
    """Reports on ``total`` runs while its block lasts: a live paragraph on a terminal, one line a minute in a log."""

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._console = total, console
        self._phase = ""
        self._runs: list[PlannedRun] = []
        self._found: dict[Path, tuple[float, int | None]] = {}
        """for each run when its phase began: the share of its steps already done, and when its status was written"""
        self._steps: dict[Path, int] = {}
        self._finished: dict[Path, str] = {}
        self._began = time.monotonic()
        self._seen: list[tuple[float, float]] = []
        """when progress was first and last seen, and how many runs' work had been done by then"""
        self._lock, self._end = threading.Lock(), threading.Event()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        with self._lock:  # from here on nothing more is shown
            if self._live:
                self._live.stop()
        with suppress(Exception):
            self.look()
            if error is not None:
                saved = sum(0 < self._share(run) < 1 for run in self._runs)
                part = f", {saved} saved partway" if saved else ""
                self._say(f"{self._done()} of {self._total} runs are done{part}.")
            elif any(share < 1 for share, _ in self._found.values()):
                self._say(f"All {self._total} runs are done, after {duration(time.monotonic() - self._began)}.")

    def begin(self, phase: str, runs: Sequence[PlannedRun], last: bool = False) -> None:
        """``runs`` come next; with ``last``, no others will follow."""
        with self._lock:
            self._phase = phase
            self._runs += runs
            if last:
                self._total = len(self._runs)
            self._found |= {run.directory: (self._share(run), _mtime_of_status(run.directory)) for run in runs}
        if begun := sum(0 < self._found[run.directory][0] < 1 for run in runs):
            self._say(f"{phase}: {begun} of {len(runs)} runs to continue")

    def _tell(self) -> None:
        said = time.monotonic()
        while not self._end.wait(LOOK_S):
            with self._lock, suppress(Exception):  # a study must not fail because a record cannot be read
                sentence, running = self.look()
                if self._end.is_set() or not sentence:
                    continue
                if self._live:
                    self._live.start()
                    self._live.update(Text("\n".join([sentence, *(f"  {one}" for one in running)])), refresh=True)
                elif time.monotonic() - said >= LINE_S:
                    said = time.monotonic()
                    self._say(f"{time.strftime('%H:%M')} {'; '.join([sentence, *running])}")

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def look(self) -> tuple[str, list[str]]:
        """The state of the studies in one sentence, empty if nothing is left to do; and a line for each active run."""
        running = []
        for run in self._runs:
            if run.directory not in self._finished:
                status = (read_status(run.directory) or {"status": "missing"})["status"]
                if status in FINISHED:
                    self._finished[run.directory] = status
                elif status == "running" and _mtime_of_status(run.directory) != self._found[run.directory][1]:
                    running.append(run)
        done = self._done()
        work = sum(self._share(run) - self._found[run.directory][0] for run in self._runs)
        left = self._seconds_left(work)
        diverged = list(self._finished.values()).count("diverged")
        sentence = (
            f"{self._phase}: {done} of {self._total} runs done{f' ({diverged} diverged)' if diverged else ''}, "
            f"{len(running)} running, {self._total - done - len(running)} to do"
        ) + (f"; about {duration(left)} left" if left is not None else "")
        return sentence if self._runs and done < self._total else "", [self._describe(run) for run in running]

    def _done(self) -> int:
        return sum(run.directory in self._finished for run in self._runs)  # two studies may share a run

    def _seconds_left(self, work: float) -> float | None:
        """Time for the remaining work at the pace so far (``work`` is in runs); None until there is a pace."""
        now = time.monotonic()
        if work > (self._seen[-1][1] if self._seen else 0.0):
            self._seen[1:] = [(now, work)]
        if len(self._seen) < 2:
            return None
        (first, before), (last, after) = self._seen
        to_do = self._total - sum(share for share, _ in self._found.values()) - after
        return max((last - first) / (after - before) * to_do - (now - last), 0.0)

    def _share(self, run: PlannedRun) -> float:
        """The share of a run's steps that its record, or a checkpoint before the first row, shows as done."""
        if run.directory in self._finished or run.is_finished():
            return 1.0
        with suppress(Exception):  # the record may be damaged
            step = newest_row(run.directory).get("step") or max(map(step_of, checkpoints(run.directory)), default=0)
            if step:
                return float(min(step / self._steps_of(run.directory), 0.99))
        return 0.0

    def _steps_of(self, directory: Path) -> int:
        if directory not in self._steps:
            self._steps[directory] = int(yaml.safe_load((directory / "config.yaml").read_text())["train"]["steps"])
        return self._steps[directory]

    def _describe(self, run: PlannedRun) -> str:
        """The run's name, step, loss, learning rate and speed; the name alone before its first step."""
        said, row = run.directory.name, newest_row(run.directory)
        with suppress(Exception):
            said += f" step {row['step']} of {self._steps_of(run.directory)}"
            said += f", loss {row['train/loss']:.3g}, lr {row['train/lr']:.2g}"
            said += f", {row['step'] / row['time/train_s']:.3g} steps/s"
        return said


def newest_row(directory: Path) -> Mapping[str, Any]:
    """The newest value of each key in the last rows of metrics.jsonl; empty without a complete row."""
    try:
        with (directory / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    newest: dict[str, Any] = {}
    for line in lines:
        with suppress(ValueError):  # the first line may be cut off
            row = json.loads(line)
            newest |= row if isinstance(row, dict) else {}
    return newest


def _mtime_of_status(directory: Path) -> int | None:
    """When status.json was written, in nanoseconds; a run that has started since has a new one."""
    with suppress(OSError):
        return (directory / "status.json").stat().st_mtime_ns
    return None


def duration(seconds: float) -> str:
    """In words, no more precise than an estimate is."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
