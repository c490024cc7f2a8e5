"""SIGTERM and SIGINT ask a run to save and leave; a scheduler's signal before its time limit is one of them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""Exit code of a run that was interrupted after saving (EX_TEMPFAIL of sysexits.h: try again)."""


class Interrupted(Exception):  # not an error: the run continues when it is started again
    """The run was asked to stop, has saved a checkpoint, and leaves."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM, SIGINT or SIGUSR1 sets while the block runs."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # signals reach the main thread only
        return

    def request(signal_number: int, frame: FrameType | None) -> None:
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
