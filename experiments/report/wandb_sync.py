"""Upload what runs have logged to W&B offline, each piece once, however often this is called.

python -m experiments.report.wandb_sync [runs folder]

A run that was stopped and continued leaves several pieces, ``<run>/wandb/offline-run-<start>-<run id>``. ``wandb sync``
appends a piece to what the server has of its run (wandb 0.31, for runs started with resume="allow"), so pieces go up
one by one in the order of their start, and where one fails the later ones of its run wait. What is done bears W&B's own
mark, so that ``wandb sync`` and ``wandb clean`` by hand go together with this.
"""

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.harness.errors import SuiteError
from experiments.harness.provenance import ROOT
from experiments.harness.tracking import has_key

LOG_HEADER_BYTES = 7
"""All that W&B's log holds if a run was killed before its first flush; ``wandb sync`` refuses such a log."""
TORN = "the file ends with an incomplete record"
"""What W&B says, having uploaded the rest, of a log that a kill has torn: there will never be more of it."""
SYNC = [sys.executable, "-m", "wandb", "sync"]


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


def pending(runs: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each run below ``runs`` (<task>/<run id>) with pieces to upload, and their logs in the order of their start."""
    for run in sorted(path.parent for path in runs.glob("*/*/wandb")):
        # The folders' names start with the time. Listed before the lock is tried: what appears later is not among them.
        logs = [
            log
            for log in sorted(run.glob("wandb/offline-run-*/*.wandb"))
            if log.stat().st_size > LOG_HEADER_BYTES and not marker_of(log).exists()
        ]
        if logs and is_being_written(run):
            print(f"{run.name}: is being written; call again when it has ended")
        elif logs:
            yield run, logs


def upload(log: Path) -> str | None:
    """Upload one piece and mark it; returns None, or what W&B said where it did not go through as a whole."""
    run = log.parents[2]
    result = subprocess.run(
        [*SYNC, str(log.relative_to(run))],
        cwd=run,  # it keeps its own log in ./wandb, which every run has
        env={**os.environ, "WANDB_SILENT": "false"},  # silent, it would keep its errors to itself
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stdout + result.stderr
    marker = marker_of(log)
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
