"""Faults that one clear sentence explains: shown without a traceback, with a non-zero exit code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of an OSError: one sentence is enough for these too."""


class SuiteError(Exception):
    """A fault of input or surroundings; the message names the key or file and the way out."""


class ConfigError(SuiteError):
    """A setting that cannot work."""


class DataError(SuiteError):
    """Data that is missing, changed, or not what its config says."""


class RunError(SuiteError):
    """A run directory that is held by another process, was made by other sources, or cannot be written."""


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Whatever is raised within is a ConfigError that begins with ``what``: of code that raises errors of its own."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{what}: {reason}") from error
