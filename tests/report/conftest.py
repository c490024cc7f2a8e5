"""Synthetic studies with their summaries, in the layout that studies leave in results/."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.report.rebuild import read_summary
from experiments.study.replicates import read_replicates
from experiments.study.summary import write_summary
from tests.synthetic_study import write_study as write_records

WriteStudy = Callable[..., Path]


def write_with_summary(results: Path, *folder: str, **arguments: Any) -> Path:
    """Write a study (the arguments are those of tests/synthetic_study.py) and return its folder."""
    directory = write_records(results, *folder, **arguments)
    write_summary(directory, read_replicates(directory))
    return directory


def by_folder(*directories: Path) -> dict[str, dict[str, Any]]:
    return {"/".join(directory.parts[-3:]): read_summary(directory) for directory in directories}


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """``write_study(...)`` writes a study under ``tmp_path / "results"`` and returns its folder."""
    return partial(write_with_summary, tmp_path / "results")
