"""Signals that ask to save and leave: a user's Ctrl-C or closed terminal, a scheduler before its time limit."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""Exit code of a run or a study that left because it was asked to (EX_TEMPFAIL of sysexits.h: try again)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""submitit's signal before SLURM's time limit is SIGUSR2. SIGHUP that is ignored (nohup) stays ignored."""


def leave_when_asked() -> None:
    """From now on a signal ends this process with EXIT_CODE, by way of SystemExit. Further ones change nothing: an
    impatient second Ctrl-C would abort Ray half way.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        for further in SIGNALS:
            signal.signal(further, signal.SIG_IGN)
        sys.exit(EXIT_CODE)

    for number in _heeded():
        signal.signal(number, leave)


def _heeded() -> list[signal.Signals]:
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def shielded() -> Iterator[None]:
    """Processes and threads that are started meanwhile never get SIGNALS: those go to a process group or a SLURM job as
    a whole, and what serves the run must outlive the step that it still finishes.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that a signal sets while the block runs. After the block the signal goes to whoever would have had it:
    ``leave_when_asked``, the launcher's requeuing (submitit), its retrying (Ray), or the system.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # signals reach the main thread only
        return
    received: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        received.append(number)
        requested.set()

    before = {number: signal.signal(number, request) for number in _heeded()}
    try:
        yield requested
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        for number in received:
            signal.raise_signal(number)
