"""Signals that ask to save and leave: a user's Ctrl-C or closed terminal, a scheduler before its time limit."""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""Exit code of a run or a study that left because it was asked to (EX_TEMPFAIL of sysexits.h: try again)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""submitit's signal before SLURM's time limit is SIGUSR2. SIGHUP that is ignored (nohup) stays ignored."""


AGAIN_S = 0.5
"""A Ctrl-C so soon after the first is the same one: `uv run` and its like hand on what the terminal sends us too."""


def leave_when_asked() -> None:
    """From now on a signal ends this process with EXIT_CODE, by way of SystemExit. Further ones, which would abort Ray
    half way, change nothing, but for a second Ctrl-C: it ends the process at once, and Ray follows by itself.
    """
    impatience = _Impatience()

    def leave(number: int, frame: FrameType | None) -> None:
        for further in SIGNALS:
            signal.signal(further, impatience.heed)
        impatience.heed(number, frame)
        sys.exit(EXIT_CODE)

    for number in _heeded():
        signal.signal(number, leave)


class _Impatience:
    """Leaves at once when a second Ctrl-C comes."""

    def __init__(self) -> None:
        self._first: float | None = None

    def heed(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            return
        if self._first is None:
            self._first = time.monotonic()
        elif time.monotonic() - self._first > AGAIN_S:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # a cursor that a progress bar has hidden
            os._exit(EXIT_CODE)


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
    """An event that a signal sets while the block runs; a second Ctrl-C ends the process at once. After the block the
    signal goes to whoever would have had it: ``leave_when_asked``, the launcher's requeuing (submitit), its retrying
    (Ray), or the system.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # signals reach the main thread only
        return
    received: list[int] = []
    impatience = _Impatience()

    def request(number: int, frame: FrameType | None) -> None:
        impatience.heed(number, frame)
        received.append(number)
        requested.set()

    before = {number: signal.signal(number, request) for number in _heeded()}
    try:
        yield requested
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        for number in received:
            if number in blocked:  # Ray's workers get no Ctrl-C, and one that is cancelled is told so from within
                _thread.interrupt_main(signal.Signals(number))
            else:
                signal.raise_signal(number)
