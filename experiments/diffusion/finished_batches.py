"""Keep finished batches of an evaluation on disk until it completes, so that a kill only loses the current batch."""

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class FinishedBatches:
    """A folder with a file per finished batch. Its name must identify everything that their content depends on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def load(self, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a batch, or None if it is not finished or its file was truncated by a crash."""
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                return dict(file)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            return None

    def save(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the arrays of a batch atomically: a reader, or a crash, sees the whole file or none."""
        aside = self._path(number).with_name(f".{number}.{os.getpid()}")
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        aside.rename(self._path(number))

    def remove(self) -> None:
        """Delete all batches."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"batch-{number:06d}.npz"
