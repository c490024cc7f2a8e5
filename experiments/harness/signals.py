"""Signals that ask a process to save and exit: Ctrl-C, a closed terminal, a scheduler before its time limit."""

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
"""Exit code of a run or study that stopped on request (EX_TEMPFAIL in sysexits.h: try again)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""submitit sends SIGUSR2 before SLURM's time limit. If SIGHUP is ignored (nohup), it stays ignored."""


AGAIN_S = 0.5
"""Seconds within which a second Ctrl-C counts as the same one: `uv run` and similar wrappers forward the signal,
although the terminal also sends it to us directly."""


def leave_when_asked() -> None:
    """From now on a signal ends this process with EXIT_CODE, through SystemExit. Further signals are ignored, because
    they would interrupt Ray's shutdown, except that a second Ctrl-C ends the process at once; Ray then exits too.
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
    """Ends the process at once on a second Ctrl-C."""

    def __init__(self) -> None:
        self._first: float | None = None

    def heed(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            return
        if self._first is None:
            self._first = time.monotonic()
        elif time.monotonic() - self._first > AGAIN_S:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # show the cursor that a progress bar has hidden
            os._exit(EXIT_CODE)


def _heeded() -> list[signal.Signals]:
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def shielded() -> Iterator[None]:
    """Block SIGNALS in processes and threads started inside the context. Signals go to the whole process group or SLURM
    job, but a run's helpers must survive until it has finished its step.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that a signal sets while the block runs; a second Ctrl-C ends the process at once. After the block
    the signal is delivered to its original handler: ``leave_when_asked``, the launcher's requeuing (submitit) or
    retrying (Ray), or the system.
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
            if number in blocked:  # Ray blocks Ctrl-C in its workers, and interrupts a cancelled one from within
                _thread.interrupt_main(signal.Signals(number))
            else:
                signal.raise_signal(number)
