"""No task reads memory that nothing has written, which the suite, to save time, does not let PyTorch fill."""

from typing import Any

import pytest
import torch

from experiments.harness import session
from tests.conftest import AVERAGED, MakeConfig, executed, rows
from tests.every_task.conftest import SHORT, TASKS


@pytest.mark.parametrize("case", TASKS)
def test_a_run_has_the_same_rows_if_new_memory_is_full_of_nan(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = rows(executed(make(AVERAGED, *SHORT)))
    make_accelerator = session.make_accelerator

    def make_filling(*arguments: Any) -> Any:
        accelerator = make_accelerator(*arguments)
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        assert torch.empty(1).isnan()
        return accelerator

    monkeypatch.setattr(session, "make_accelerator", make_filling)
    assert rows(executed(make(AVERAGED, *SHORT, "run.fresh=true"))) == usual
