"""Plans compose configs outside of any command."""

import pytest
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture(autouse=True)
def no_hydra() -> None:
    GlobalHydra.instance().clear()
