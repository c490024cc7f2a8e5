"""Write files whole, lock them, and tell whether they are still what was written."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.harness.errors import DataError

log = logging.getLogger(__name__)


def write_aside(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` atomically: a reader, or a crash, sees the whole old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def first_file(paths: Iterable[str]) -> Path | None:
    """The first of the paths that is a file."""
    return next((file for path in paths if (file := Path(path).expanduser()).is_file()), None)


def sha256_of(path: Path, start: int = 0) -> str:
    """SHA-256 of the file's content from byte ``start`` on, 64 hex digits."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_changed(directory: Path, expected: Mapping[str, str], digest: Callable[[Path], str]) -> str | None:
    """The first file in ``directory`` whose ``digest`` is not the ``expected`` one, by name; None if all are.

    Raises OSError for a file that cannot be read. A file is read again only if its inode, size or times have changed
    since its last check, which ``<directory>.checked`` remembers: every run opens its data, and hashing C4 takes
    minutes.
    """
    record = directory.with_name(f"{directory.name}.checked")
    try:
        checked = json.loads(record.read_text())
    except (OSError, ValueError):
        checked = {}
    found = {}
    for name, wanted in expected.items():
        state = (directory / name).stat()
        found[name] = [wanted, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        if checked.get(name) != found[name] and digest(directory / name) != wanted:
            return name
    if found != checked:
        with suppress(OSError):  # a cache that several users share may be read-only
            write_aside(record, json.dumps(found))
    return None


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Lock ``path`` against other processes; the system releases the lock when its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise DataError(f"The data cache {path.parent} cannot be written ({error}): set run.cache_dir.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is preparing %s: waiting for it", path.stem)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
