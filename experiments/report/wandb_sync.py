"""Upload what W&B has not got of any run, each piece once, however often this is called.

python -m experiments.report.wandb_sync [runs folder]

A run that was stopped and continued leaves several pieces, ``<run>/wandb/offline-run-<start>-<run id>``, or without
"offline-" where it was online and lost the server. Rows of metrics.jsonl that are in no piece, because W&B could not
start or was killed, are made a piece of first. ``wandb sync`` appends a piece to what the server has of its run (wandb
0.31, for runs started with resume="allow"), so pieces go up one by one in the order of their start, and where one fails
the later ones of its run wait. What is done bears W&B's own mark, so that ``wandb sync`` and ``wandb clean`` by hand go
together with this.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from experiments.harness.errors import SuiteError
from experiments.harness.provenance import ROOT
from experiments.harness.record import last_values, read_metrics, read_status
from experiments.harness.tracking import STEP, Tracker, base_url, has_key

LOG_HEADER_BYTES = 7
"""All that W&B's log holds if a run was killed before its first flush; ``wandb sync`` refuses such a log."""
TORN = "the file ends with an incomplete record"
"""What W&B says, having uploaded the rest, of a log that a kill has torn: there will never be more of it."""
SYNC = [sys.executable, "-m", "wandb", "sync"]
INSPECT = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
LONGEST_UPLOAD_S = 900
CONNECTION_TIMEOUT_S = 20
COMPLETE = "wandb_rows_complete"
"""Of a run whose pieces hold all its rows: how many, so that they are not read again."""


def marker_of(log: Path) -> Path:
    """W&B's own mark of a log that has been uploaded; an empty file."""
    return Path(f"{log}.synced")


def is_being_written(run: Path) -> bool:
    """Whether a process holds the run; its piece would count as ended and its later rows would stay behind."""
    with (run / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def logs_of(run: Path) -> list[Path]:
    """The logs of all pieces of a run, in the order of their start, which their folders' names tell."""
    logs = [log for log in run.glob("wandb/*run-*/*.wandb") if log.stat().st_size > LOG_HEADER_BYTES]
    return sorted(logs, key=lambda log: log.parent.name.removeprefix("offline-"))


def pending(runs: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each run below ``runs`` (<task>/<run id>) with pieces to upload, and their logs in the order of their start."""
    for run in sorted({path.parent for pattern in ("wandb", "wandb_run.json") for path in runs.glob(f"*/*/{pattern}")}):
        # Listed before the lock is tried: what appears later is not among them.
        before = logs_of(run)
        if is_being_written(run):
            if any(not marker_of(log).exists() for log in before):
                print(f"{run.name}: is being written; call again when it has ended")
            continue
        add_missing_rows(run, before)
        logs = [log for log in logs_of(run) if not marker_of(log).exists()]
        if logs:
            yield run, logs


def add_missing_rows(run: Path, logs: list[Path]) -> None:
    """Make a piece of the rows of metrics.jsonl that no piece holds."""
    rows = read_metrics(run) if (run / "wandb_run.json").exists() else []
    complete = run / COMPLETE
    if not rows or (complete.exists() and complete.read_text() == str(len(rows))):
        return
    held: set[str] = set()
    for log in logs:
        found = subprocess.run([*INSPECT, str(log.parent)], capture_output=True, text=True, check=False, timeout=300)
        if found.returncode:
            print(f"{run.name}: {log.parent.name} cannot be read, so nothing is added to it")
            return
        records = [json.loads(line) for line in found.stdout.splitlines()]
        held |= {_key(record["history"]["item"]) for record in records if record["type"] == "history"}
    missing = [row for row in rows if _key({**row, STEP: row["step"]}) not in held]
    if missing:
        tracker = Tracker(run, "offline", json.loads((run / "wandb_run.json").read_text()), add_all=True)
        for row in missing:
            tracker.log(row)
        status = read_status(run)
        tracker.finish(status["status"] if status else "failed", last_values(run))
        (run / "wandb_rows_sent").write_text(str(len(rows)))
        print(f"{run.name}: {len(missing)} of {len(rows)} rows were in no piece and are in one now", flush=True)
    complete.write_text(str(len(rows)))


def _key(item: dict[str, float]) -> str:
    """A row by its step and the names of its metrics, of which a run has one each."""
    return json.dumps([item[STEP], sorted(name for name in item if name[0] != "_" and name not in (STEP, "step"))])


def upload(log: Path) -> str | None:
    """Upload one piece and mark it; returns None, or what W&B said where it did not go through as a whole."""
    run = log.parents[2]
    marker = marker_of(log)
    try:
        result = subprocess.run(
            [*SYNC, str(log.relative_to(run))],
            cwd=run,  # it keeps its own log in ./wandb, which every run has
            env={**os.environ, "WANDB_SILENT": "false"},  # silent, it would keep its errors to itself
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_UPLOAD_S,
        )
    except subprocess.TimeoutExpired:
        marker.unlink(missing_ok=True)
        return f"it took more than {LONGEST_UPLOAD_S} s"
    said = result.stdout + result.stderr
    # W&B ends with 0 even if the account is refused, and sets its marker even if the connection broke half way.
    errors = [line for line in said.splitlines() if "ERROR" in line and TORN not in line]
    if result.returncode == 0 and not errors and (marker.exists() or TORN in said):
        marker.touch()
        return None
    marker.unlink(missing_ok=True)
    return said.strip() or f"wandb sync ended with exit code {result.returncode}"


def sync(runs: Path) -> bool:
    """Upload everything that is pending below ``runs``, say what happened, and return whether all of it went through.

    Raises SuiteError if there is no W&B account to upload to, or no such folder.
    """
    if not has_key():
        raise SuiteError("There is no W&B account to upload to: set WANDB_API_KEY, or call wandb login, and try again.")
    if not runs.is_dir():
        raise SuiteError(f"There is no folder {runs}: name the one that holds <task>/<run id>.")
    print(f"Uploading what is below {runs} to {base_url()}", flush=True)
    try:
        urllib.request.urlopen(base_url(), timeout=CONNECTION_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        raise SuiteError(
            f"W&B at {base_url()} cannot be reached ({error}): nothing was uploaded. Try later."
        ) from error
    uploaded = failed = 0
    for run, logs in pending(runs):
        for log in logs:
            piece = f"{run.name}: {log.parent.name}"
            if fault := upload(log):
                print(f"{piece} failed, and the next call tries it again:\n{fault}", flush=True)
                failed += 1
                break
            print(f"{piece} uploaded", flush=True)
            uploaded += 1
    print(f"{uploaded} pieces uploaded, {failed} runs failed")
    return not failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report.wandb_sync", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="?", type=Path, default=ROOT / "runs", help="default: runs/ of this checkout")
    try:
        sys.exit(0 if sync(parser.parse_args().runs) else 1)
    except SuiteError as error:
        sys.exit(f"error: {error}")
