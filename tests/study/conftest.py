"""Studies that are set up in the test's own process, and a folder for their runs."""

import pytest

from experiments.harness.entry import execute
from experiments.study.sweep import Study
from tests.conftest import MakeConfig


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A runs folder for a module's studies, which the first test that needs a run fills."""
    return f"run.runs_dir={tmp_path_factory.mktemp('runs')}"


def make_study(make_config: MakeConfig, *overrides: str, optimizers: tuple[str, ...] = ("lion", "adamw")) -> Study:
    return Study(lambda more: make_config(*more), list(overrides), list(optimizers))


def execute_all(study: Study, make_config: MakeConfig) -> None:
    """Make the runs of a study without a search, unless they are finished."""
    for run in [run for course in study.courses for run in course.confirm()]:
        if not run.is_finished():
            execute(make_config(*run.overrides))
