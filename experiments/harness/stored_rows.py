"""Rows computed once, in chunks, and stored in a file: they need not fit in memory, and a kill loses little."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from experiments.harness.files import write_aside
from experiments.harness.prepared_data import PreparedData, cached, write_manifest

SAVE_EVERY_S = 60.0
"""A kill -9 loses at most the rows of this many seconds; a signal that the process can handle loses none."""


def stored_rows(
    name: str, identity: str, cache_dir: Path, array: str, count: int, compute: Callable[[int], Iterator[np.ndarray]]
) -> PreparedData:
    """The ``array`` of ``count`` rows that ``compute`` yields, or its cached copy if it was computed before under this
    ``name`` and ``identity``, which must cover everything that the rows depend on.

    ``compute(first)`` yields consecutive chunks of rows, all of one dtype, starting at row ``first``: 0, or the number
    of rows that a killed process left. If several processes want the same rows, one computes them and the others wait.
    """

    def make(work_dir: Path) -> None:
        path, journal = work_dir / f"{array}.npy", work_dir / "journal.json"
        done = json.loads(journal.read_text())["done"] if journal.exists() else 0
        if not done:
            shutil.rmtree(work_dir, ignore_errors=True)
            work_dir.mkdir()
        rows = np.load(path, mmap_mode="r+", allow_pickle=False) if done else None
        saved = time.monotonic()

        def save() -> None:
            if rows is not None:
                rows.flush()
                write_aside(journal, json.dumps({"done": done}))

        try:
            for chunk in compute(done) if done < count else ():
                if rows is None:
                    shape = (count, *chunk.shape[1:])
                    rows = np.lib.format.open_memmap(path, "w+", dtype=chunk.dtype, shape=shape)
                    with path.open("r+b") as file:  # otherwise a full disk kills the process (SIGBUS) at a later chunk
                        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
                rows[done : done + len(chunk)] = chunk
                done += len(chunk)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    save()
                    saved = time.monotonic()
        finally:
            save()
        assert rows is not None, f"{count} rows of {name}"
        assert done == count, f"{done} of {count} rows of {name}"
        write_manifest({array: (rows, hashlib.sha256(rows.data).hexdigest())}, identity, work_dir)
        journal.unlink()

    return cached(name, identity, cache_dir, make)
