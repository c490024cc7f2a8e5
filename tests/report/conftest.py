"""Synthetic studies with their summaries, in the layout that studies leave in results/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.study.summary import write_summary
from tests.synthetic_study import write_study as write_records

WriteStudy = Callable[..., Path]


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """``write_study(...)`` writes a study under ``tmp_path / "results"`` (the arguments are those of
    tests/synthetic_study.py) and returns its folder.
    """

    def write(*folder: str, **arguments: Any) -> Path:
        directory = write_records(tmp_path / "results", *folder, **arguments)
        write_summary(directory)
        return directory

    return write
