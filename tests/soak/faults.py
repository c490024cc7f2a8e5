"""Commands of the suite in forked processes, and the faults injected into them."""

import multiprocessing.util
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
from hydra.core.plugins import Plugins

from experiments.harness import entry, source_code
from experiments.harness.record import FINISHED, read_status
from tests.report.wandb_server import Server

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir")
"""Audit events (docs.python.org, table of audit events) of operations on files; os.replace is a rename."""
LONGEST_S = 300.0
"""Far above what any command takes; one that takes longer counts as hung."""

Prepare = Callable[[], None]


def start(task: str, arguments: Iterable[str], log: Path, prepare: Prepare = lambda: None) -> int:
    """``python -m experiments.<task> <arguments>`` in a fork, the leader of a session; ``prepare`` is called first."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [f"experiments.{task}", *arguments]
        prepare()
        entry.main(task)
        code = 0
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else 0 if request.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            multiprocessing.util._exit_function()  # type: ignore[attr-defined]  # ends data workers
        os._exit(code)


def import_what_was_imported(task: str, listed: Path) -> None:
    """Import the modules that the last fork imported (named in ``listed``), so that the next forks need not."""
    for name in listed.read_text().split():
        with suppress(Exception):  # a part of a package that cannot be imported by itself
            import_module(name)
    Plugins.instance()
    source_code.programs([f"experiments.{task}.task", "experiments.harness.entry"], {"experiments", "lion"})


def list_imports(listed: Path) -> Prepare:
    """Make a process write the names of all its modules when it ends."""

    def at_the_end() -> None:
        multiprocessing.util.Finalize(None, lambda: listed.write_text("\n".join(sys.modules)), exitpriority=0)

    return at_the_end


def end(child: int) -> int | None:
    """The exit code, negative for a signal; None if it had to be killed after LONGEST_S."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def at_file_operation(number: int, below: Path, action: Callable[[], None]) -> None:
    """Make this process run ``action`` at its ``number``-th operation on a file below a folder."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_EVENTS and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(below)):
            count += 1
            if count == number:
                action()

    sys.addaudithook(watch)


def killed(rng: random.Random, below: Path) -> Prepare:
    """SIGKILL at a random operation on a file."""
    number = int(10 ** rng.uniform(0, 2.3))
    return lambda: at_file_operation(number, below, lambda: os.kill(os.getpid(), signal.SIGKILL))


def killed_any_time(rng: random.Random, below: Path) -> Prepare:
    """Sudden death at a random time, by SIGALRM, which nothing handles."""
    seconds = rng.uniform(0.1, 4.0)

    def set_timer() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return set_timer


def asked_to_leave(rng: random.Random, below: Path) -> Prepare:
    """A signal that asks to save and stop, sent to the process or its group at a random operation on a file."""
    sent = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
    send = rng.choice([os.kill, os.killpg])
    number = int(10 ** rng.uniform(0, 2.3))
    return lambda: at_file_operation(number, below, lambda: send(os.getpid(), sent))


def full_disk(rng: random.Random, below: Path) -> Prepare:
    """Limit files to a random number of bytes, which looks to the process like a full disk."""
    size = int(10 ** rng.uniform(1, 5))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return limit


def clock_set_back(rng: random.Random, below: Path) -> Prepare:
    """The clock jumps back at a random operation on a file, and the process is killed somewhat later."""
    number, original, days = int(10 ** rng.uniform(0, 1.5)), time.time, rng.uniform(0, 400)

    def set_back() -> None:
        time.time = lambda: original() - 86400 * days

    def prepare() -> None:
        at_file_operation(number, below, set_back)
        at_file_operation(2 * number, below, lambda: os.kill(os.getpid(), signal.SIGKILL))

    return prepare


def worker_killed(rng: random.Random, below: Path) -> Prepare:
    """SIGKILL to a child process, a data worker if there is one, at a random operation on a file."""
    number = int(10 ** rng.uniform(0.7, 2.3))

    def kill() -> None:
        for child in psutil.Process().children()[:1]:
            child.kill()

    return lambda: at_file_operation(number, below, kill)


def damage(rng: random.Random, below: Path) -> str:
    """Truncate, empty or delete a random file of a run, or flip one of its bits, and give it a random date. The only
    checkpoint of a finished run is not deleted, because that is allowed, to save space, and is not detected.
    """
    files = [path for path in below.rglob("*") if path.is_file() and path.name != "lock"]
    if not files:
        return "nothing to damage"
    path, how = rng.choice(sorted(files)), rng.choice(["cut", "flip", "empty", "delete"])
    status, checkpoints = read_status(path.parent), len([*path.parent.glob("step-*.pt")])
    if how == "delete" and path.suffix == ".pt" and checkpoints == 1 and status and status["status"] in FINISHED:
        return "nothing to damage"
    content = bytearray(path.read_bytes())
    if how == "flip" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut" and content:
        del content[rng.randrange(len(content)) :]
    elif how == "empty":
        content.clear()
    path.write_bytes(content)
    os.utime(path, (rng.uniform(0, 2e9),) * 2)
    if how == "delete":
        path.unlink()
    return f"{how} {path.name}"


@contextmanager
def failing_server(rng: random.Random) -> Iterator[str]:
    """The address of a W&B server that after a while refuses, hangs or dies."""
    server, how, seconds = Server(), rng.choice([signal.SIGSTOP, signal.SIGKILL, None]), rng.uniform(0, 4)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, lambda number, frame: setattr(server, "refuses", True))
        if how:
            signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), how))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        server.serve_forever()
    server.server_close()
    try:
        yield server.url
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


DATA_WORKER = "a data worker killed"
IN_A_PROCESS: dict[str, Callable[[random.Random, Path], Prepare]] = {
    "kill -9 at a file operation": killed,
    "ended at any time": killed_any_time,
    "signal to the process or its group": asked_to_leave,
    DATA_WORKER: worker_killed,
    "disk full": full_disk,
    "clock set back, then kill -9": clock_set_back,
}
