"""Faults that one clear sentence explains: shown without a traceback, with a non-zero exit code."""

import errno

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
