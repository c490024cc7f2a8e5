"""Finished batches of an evaluation, on disk until it is done: a kill in the middle loses the batch that was due."""

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class FinishedBatches:
    """A folder with a file for each finished batch; its name must tell everything that their content depends on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def load(self, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a batch, or None where it is not finished, or a crash of the machine has cut its file."""
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                return dict(file)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            return None

    def save(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays of a batch; a reader, or a crash, sees the whole file or none."""
        aside = self._path(number).with_name(f".{number}.{os.getpid()}")
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        aside.rename(self._path(number))

    def remove(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"batch-{number:06d}.npz"
