"""Small generated data for every task."""

import pytest

from tests.golden.test_golden import DATA


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """By task, the overrides that replace real data with generated data."""
    return {task: request.getfixturevalue(fixture) for task, fixture in DATA.items()}
