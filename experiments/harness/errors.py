"""Errors that are shown as one sentence, without a traceback, and end with a non-zero exit code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of an OSError that is also shown as one sentence."""


class SuiteError(Exception):
    """A fault in the input or the environment; the message names the key or file and says how to fix it."""


class ConfigError(SuiteError):
    """A setting that cannot work."""


class DataError(SuiteError):
    """Data that are missing, changed, or not what the config says."""


class RunError(SuiteError):
    """A run directory that is held by another process, was made by different source code, or cannot be written."""


class Diverged(Exception):  # a result, not an error
    """Loss, gradient, optimizer state or a metric became NaN or infinite."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


def first_cause(error: BaseException) -> BaseException:
    """The start of a chain of ``raise ... from``: what went wrong, not where it surfaced."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, which may be empty."""
    return (str(error).strip().splitlines() or [""])[0]


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Turn any exception inside the context, as of third-party code, into a ConfigError starting with ``what``."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{what}: {first_line(error) or type(error).__name__}") from error
