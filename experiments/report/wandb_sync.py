"""Upload whatever W&B lacks of any run, each row exactly once, however often this is called.

python -m experiments.report.wandb_sync [runs folder]

Rows are read from metrics.jsonl, whatever became of W&B's own logs: a run that was offline, lost the server or was
killed is reopened under its id, the server says how many rows it has, and receives the rest and the run's final status.
The logs of a completely uploaded run get W&B's own mark, so that manual calls of ``wandb sync`` and ``wandb clean``
still work.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

from experiments.harness.errors import RunError, SuiteError
from experiments.harness.explained import one_sentence
from experiments.harness.record import is_held, last_values, read_metrics, read_status, take_lock
from experiments.harness.source_code import ROOT
from experiments.harness.tracking import COMPLETE, Tracker, base_url, has_key, what_is_complete

CONNECTION_TIMEOUT_S = 20


def send(run: Path) -> bool | None:
    """Bring W&B up to date with one run, which is locked meanwhile. Returns None if there was nothing to do, else
    whether everything was uploaded. Raises RunError for a damaged record.
    """
    with take_lock(run):
        rows, recorded = read_metrics(run), read_status(run)
        status = recorded["status"] if recorded else "failed"
        complete = run / COMPLETE
        if not rows or (complete.exists() and complete.read_text() == what_is_complete(len(rows), status)):
            return None
        try:
            description = dict(json.loads((run / "wandb_run.json").read_bytes()))
        except (ValueError, TypeError) as error:
            raise RunError(f"{run / 'wandb_run.json'} is damaged: delete it to leave this run out of W&B.") from error
        tracker = Tracker(run, "online", description, falls_back=False)
        tracker.skip(len(rows))
        if not tracker.finish(status, last_values(run)):
            return False
        for log in run.glob("wandb/*run-*/*.wandb"):
            Path(f"{log}.synced").touch()
        return True


def sync(runs: Path) -> bool:
    """Upload everything that W&B lacks of the runs under ``runs`` (<task>/<run id>), print what happened, and return
    whether everything was uploaded.

    Raises SuiteError if there is no W&B account, no such folder, or no server.
    """
    if not has_key():
        raise SuiteError("There is no W&B account to upload to: set WANDB_API_KEY, or call wandb login, and try again.")
    if not runs.is_dir():
        raise SuiteError(f"There is no folder {runs}: name the folder that contains <task>/<run id>.")
    print(f"Uploading the runs under {runs} to {base_url()}", flush=True)
    try:
        urllib.request.urlopen(base_url(), timeout=CONNECTION_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        if not (isinstance(error, urllib.error.HTTPError) and error.code < 500):  # below 500 the server does answer
            raise SuiteError(
                f"W&B at {base_url()} cannot be reached ({error}): nothing was uploaded. Try later."
            ) from error
    uploaded = failed = 0
    for run in sorted(path.parent for path in runs.glob("*/*/wandb_run.json")):
        if is_held(run):
            print(f"{run.name}: still being written; call again when it has ended", flush=True)
            continue
        try:
            went_through = send(run)
        except RunError as fault:
            print(f"{run.name}: {fault}", flush=True)
            went_through = False
        if went_through is False:
            print(f"{run.name}: incomplete; the next call continues", flush=True)
            failed += 1
        elif went_through:
            print(f"{run.name} uploaded", flush=True)
            uploaded += 1
    print(f"runs uploaded: {uploaded}, failed: {failed}")
    return not failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report.wandb_sync", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="?", type=Path, default=ROOT / "runs", help="default: runs/ of this checkout")
    arguments = parser.parse_args()
    with one_sentence():
        sys.exit(0 if sync(arguments.runs) else 1)
