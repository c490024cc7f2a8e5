"""Uploads of offline runs, with a stand-in for the ``wandb`` command that behaves as wandb 0.31 was seen to."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from experiments.harness.entry import execute, locate
from experiments.report.wandb_sync import LOG_HEADER_BYTES
from tests.conftest import MakeConfig

# What each kind of call prints, whether it leaves W&B's marker, and its exit code.
STAND_IN = """
import os
import sys
from pathlib import Path

command, log = sys.argv[1:]
assert command == "sync", sys.argv
folder = Path(__file__).parent
with (folder / "calls").open("a") as calls:
    calls.write(Path(log).parent.name + "\\n")
queue = folder / "outcomes"
outcome, *rest = queue.read_text().split() or ["fine"]
queue.write_text(" ".join(rest))
said, marks, code = {
    "fine": ("wandb: Finished syncing", True, 0),
    "refused": ("wandb: ERROR permission denied", False, 0),
    "broken": ("wandb: ERROR Fatal error while uploading data.\\nwandb: Finished syncing", True, 0),
    "torn": ('wandb: ERROR Failed to sync all data: the file ends with an incomplete record. If the', False, 0),
    "crashed": ("panic", True, 1),
    "silent": ("", False, 0),
}[outcome]
if os.environ["WANDB_SILENT"] == "false":
    print(said, file=sys.stderr)
if marks:
    Path(log + ".synced").touch()
sys.exit(code)
"""

FIRST, SECOND = "offline-run-20260101_000000-lion", "offline-run-20260101_000102-lion"


def add_piece(run: Path, name: str, log_bytes: int = 1000) -> Path:
    log = run / "wandb" / name / "run-lion.wandb"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(log_bytes))
    (run / "lock").touch()
    return log


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    folder = tmp_path / "stand_in/wandb"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(STAND_IN)
    (folder / "calls").touch()
    (folder / "outcomes").touch()
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that answers whatever it is asked with "not found"."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def sync(stand_in: Path, tmp_path: Path, server: str) -> Callable[..., tuple[int, str, list[str]]]:
    """``sync("refused", ...)``: exit code, output, and the pieces that were given to ``wandb sync``, in order; the
    outcomes are those of its calls one after the other, and afterwards all is fine.
    """

    def call(*outcomes: str, key: str = "x" * 40, url: str = server) -> tuple[int, str, list[str]]:
        (stand_in / "outcomes").write_text(" ".join(outcomes))
        (stand_in / "calls").write_text("")
        environment = {**os.environ, "PYTHONPATH": str(stand_in.parent), "WANDB_API_KEY": key}
        environment |= {
            "HOME": str(tmp_path),
            "NETRC": str(tmp_path / "none"),
            "WANDB_SILENT": "true",
            "WANDB_BASE_URL": url,
        }
        result = subprocess.run(
            [sys.executable, "-m", "experiments.report.wandb_sync", str(tmp_path / "runs")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return result.returncode, result.stdout + result.stderr, (stand_in / "calls").read_text().split()

    return call


Sync = Callable[..., tuple[int, str, list[str]]]


def test_every_piece_is_uploaded_once_in_the_order_of_its_start(sync: Sync, tmp_path: Path) -> None:
    names = [f"offline-run-20260101_00000{second}-lion" for second in range(4)]
    for second in (2, 0, 3, 1):
        add_piece(tmp_path / "runs/task/lion", names[second])
    add_piece(tmp_path / "runs/other/adamw", "offline-run-20260101_000001-adamw")
    add_piece(tmp_path / "runs/task/.superseded/lion-0", "offline-run-20250101_000000-lion")
    code, output, calls = sync()
    assert (code, calls) == (0, ["offline-run-20260101_000001-adamw", *names])
    assert "5 pieces uploaded, 0 runs failed" in output
    assert sync()[2] == []
    # A run that goes on leaves another piece.
    add_piece(tmp_path / "runs/task/lion", "offline-run-20260101_000203-lion")
    assert sync()[2] == ["offline-run-20260101_000203-lion"]


@pytest.mark.parametrize("outcome", ["refused", "broken", "crashed", "silent"])
def test_after_a_fault_the_runs_later_pieces_wait_and_other_runs_go_on(
    sync: Sync, tmp_path: Path, outcome: str
) -> None:
    add_piece(tmp_path / "runs/task/lion", FIRST)
    add_piece(tmp_path / "runs/task/lion", SECOND)
    add_piece(tmp_path / "runs/task/nadam", "offline-run-20260101_000000-nadam")
    code, output, calls = sync(outcome)
    assert (code, calls) == (1, [FIRST, "offline-run-20260101_000000-nadam"])
    assert f"lion: {FIRST} failed" in output
    assert "1 pieces uploaded, 1 runs failed" in output
    code, _, calls = sync()
    assert (code, calls) == (0, [FIRST, SECOND])


def test_a_log_that_a_kill_has_torn_counts_as_uploaded(sync: Sync, tmp_path: Path) -> None:
    add_piece(tmp_path / "runs/task/lion", FIRST)
    add_piece(tmp_path / "runs/task/lion", SECOND)
    assert sync("torn")[::2] == (0, [FIRST, SECOND])
    assert sync()[2] == []


def test_a_log_without_any_record_is_left_out(sync: Sync, tmp_path: Path) -> None:
    add_piece(tmp_path / "runs/task/lion", FIRST, log_bytes=LOG_HEADER_BYTES)
    add_piece(tmp_path / "runs/task/lion", SECOND)
    assert sync()[::2] == (0, [SECOND])


def test_a_run_that_is_being_written_is_left_for_later(sync: Sync, tmp_path: Path) -> None:
    run = tmp_path / "runs/task/lion"
    add_piece(run, FIRST)
    with (run / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, output, calls = sync()
        assert (code, calls) == (0, [])
        assert "lion: is being written" in output
    assert sync()[2] == [FIRST]


def test_without_a_key_or_a_folder_it_is_one_sentence(sync: Sync, tmp_path: Path) -> None:
    code, output, _ = sync()
    assert (code, output) == (
        1,
        f"error: There is no folder {tmp_path}/runs: name the one that holds <task>/<run id>.\n",
    )
    add_piece(tmp_path / "runs/task/lion", FIRST)
    code, output, calls = sync(key="")
    assert (code, calls) == (1, [])
    assert output.startswith("error: There is no W&B account")
    assert output.count("\n") == 1


def test_a_real_offline_run_is_found_and_its_log_is_one_that_wandb_would_take(
    make_config: MakeConfig, sync: Sync
) -> None:
    cfg = make_config("run.wandb=offline")
    execute(cfg)
    directory = locate(cfg)[2]
    code, output, calls = sync()
    assert (code, len(calls)) == (0, 1), output
    assert calls[0].endswith(directory.name)
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", f"wandb/{calls[0]}"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    assert "Skipped 1 synced run(s)" in result.stderr, "the marker is the one that W&B itself reads"


def test_a_server_that_cannot_be_reached_is_one_sentence_at_once(sync: Sync, tmp_path: Path) -> None:
    add_piece(tmp_path / "runs/task/lion", FIRST)
    started = time.monotonic()
    code, output, calls = sync(url="http://127.0.0.1:9")
    assert (code, calls) == (1, [])
    assert time.monotonic() - started < 30
    assert f"Uploading what is below {tmp_path}/runs to http://127.0.0.1:9" in output
    assert "error: W&B at http://127.0.0.1:9 cannot be reached" in output
